package broker_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
	"rialto/pricing"
)

var update = flag.Bool("update", false, "write the market's answers into the stories")

// TestStories plays testdata/*.txt. A story is a transcript: lines at the margin are events, indented
// lines are what the market did, lines with # are for the reader. -update writes the indented lines anew.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := tell(t, string(want))
			if got == string(want) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("the market answered otherwise (go test -update writes it):\n%s", firstDifference(got, string(want)))
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d\n got  %s\n want %s", i+1, g[i], strings.Join(w[min(i, len(w)):min(i+1, len(w))], ""))
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// teller plays one story.
type teller struct {
	*testing.T
	world  *markettest.World
	out    strings.Builder
	labels map[broker.LeaseID]string // such as j1/2, the second lease of job j1
	epochs map[string]uint64         // by GPU UUID
	seqs   map[broker.LeaseID]uint64
	sets   map[string]uint64 // offer set sequence by host
	next   string            // cursor of the last search
	gangs  []string
}

// node finds the id of a gang's node: j1-2 is that of rank 2.
func (s *teller) node(word string) string {
	name, rest, _ := strings.Cut(word, "/")
	i := strings.LastIndexByte(name, '-')
	if i < 0 || !slices.Contains(s.gangs, name[:i]) {
		return word
	}
	id := string(broker.MemberID(broker.JobID(name[:i]), must(strconv.Atoi(name[i+1:]))))
	if rest != "" {
		id += "/" + rest
	}
	return id
}

// nodes writes the names of gangs' nodes for their ids.
func (s *teller) nodes(text string) string {
	for _, gang := range s.gangs {
		for rank := 1; rank < 4; rank++ {
			text = strings.ReplaceAll(text, string(broker.MemberID(broker.JobID(gang), rank)), fmt.Sprintf("%s-%d", gang, rank))
		}
	}
	return text
}

func tell(t *testing.T, story string) string {
	t.Helper()
	w, err := markettest.NewWorld(broker.MarketConfig{FeePPM: 50_000})
	if err != nil {
		t.Fatal(err)
	}
	s := &teller{
		T: t, world: w,
		labels: map[broker.LeaseID]string{}, epochs: map[string]uint64{}, seqs: map[broker.LeaseID]uint64{}, sets: map[string]uint64{},
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(story, "\n"), "\n") {
		if strings.HasPrefix(line, "\t") {
			continue
		}
		s.out.WriteString(line + "\n")
		if line != "" && !strings.HasPrefix(line, "#") {
			s.play(line)
		}
	}
	return s.out.String()
}

func (s *teller) say(format string, args ...any) {
	s.out.WriteString(s.nodes(fmt.Sprintf("\t"+format+"\n", args...)))
}

// command is an event line: words, options such as max=0.50/h, and all that follows the first word.
type command struct {
	verb  string
	words []string
	opts  map[string]string
}

func parse(line string) command {
	line, where, _ := strings.Cut(line, " where ")
	fields := strings.Fields(line)
	c := command{verb: fields[0], opts: map[string]string{"where": where}}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			c.opts[k] = v
		} else {
			c.words = append(c.words, f)
		}
	}
	return c
}

func (c command) rest(from int) string { return strings.Join(c.words[min(from, len(c.words)):], " ") }

func (s *teller) play(line string) {
	s.Helper()
	c := parse(line)
	if c.opts["nodes"] != "" {
		s.gangs = append(s.gangs, c.words[0])
	}
	for i, w := range c.words {
		c.words[i] = s.node(w)
	}
	name := c.words
	if len(name) == 0 {
		name = []string{""}
	}
	switch c.verb {
	case "broker":
		w, err := markettest.NewWorld(broker.MarketConfig{AllowSimulated: true, FeePPM: 50_000})
		s.must(err)
		s.world = w
	case "account":
		s.must(s.world.Open(name[0], must(pricing.ParseMoney(name[1]))))
	case "limits": // CUSTOMER [job=MONEY] [day=MONEY] [total=MONEY]
		money := func(key string) pricing.Money { return must(pricing.ParseMoney(cmp.Or(c.opts[key], "0"))) }
		s.step(broker.LimitsSet{Account: broker.AccountID(name[0]), Limits: broker.Limits{Job: money("job"), Day: money("day"), Total: money("total")}})
	case "deposit":
		s.step(broker.Deposited{Account: broker.AccountID(name[0]), Amount: must(pricing.ParseMoney(name[1])), Ref: c.opts["ref"]})
	case "offer":
		s.step(s.offer(c))
	case "gone":
		s.step(broker.ProviderGone{Provider: broker.PeerID(name[0])})
	case "distrust": // HOST DURATION
		s.step(broker.SourceDistrusted{Provider: broker.PeerID(name[0]), Until: s.world.Now.Add(must(time.ParseDuration(name[1])))})
	case "submit":
		s.step(s.submission(c))
	case "accept":
		s.step(broker.QuoteAccepted{Job: broker.JobID(name[0])})
	case "bid":
		s.step(s.bidChange(c))
	case "cancel":
		s.step(broker.CancelRequested{Job: broker.JobID(name[0]), Reason: c.rest(1)})
	case "grant":
		s.step(s.grant(c))
	case "refuse":
		s.step(broker.HoldAnswered{Lease: s.lease(name[0]), Answer: broker.Answer{Lease: s.lease(name[0]), Refusal: c.rest(1)}})
	case "noanswer":
		s.step(broker.HoldAnswered{Lease: s.lease(name[0]), Error: c.rest(1)})
	case "confirmed":
		s.step(broker.ConfirmAnswered{Lease: s.lease(name[0]), Error: c.rest(1)})
	case "released":
		s.step(broker.ReleaseAnswered{Lease: s.lease(name[0]), Error: c.rest(1)})
	case "report":
		s.step(s.report(c))
	case "signed":
		s.step(broker.ReceiptSigned{Lease: s.lease(name[0]), Envelope: []byte("receipt")})
	case "after":
		s.world.Now = s.world.Now.Add(must(time.ParseDuration(name[0])))
		if c.rest(1) == "tick" {
			s.step(broker.Ticked{})
		}
	case "tick":
		s.step(broker.Ticked{})
	case "restart":
		s.must(s.world.Restart())
	case "sized": // IMAGE MiB
		s.step(broker.ContentSized{Digest: markettest.Digest(name[0]), Bytes: int64(must(strconv.Atoi(name[1]))) << 20})
	case "start":
		s.start(c)
	case "run": // DURATION JOB…
		s.run(must(time.ParseDuration(name[0])), c.words[1:])
	case "load":
		s.load(name[0])
	case "search":
		s.search(c)
	case "quote":
		s.quote(c)
	case "log":
		j := s.world.Jobs[broker.JobID(name[0])]
		for _, e := range j.Log {
			s.say("%d %v %s", e.Seq, e.State, e.Text)
		}
	case "books":
		s.books()
	default:
		s.Fatalf("story: unknown event %q", line)
	}
}

func (s *teller) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// step plays an event and tells what the market did. Receipts are signed at once.
func (s *teller) step(ev broker.Event) {
	effects, err := s.world.Step(ev)
	if err != nil {
		if !markettest.Refused(err) {
			s.Fatal(err)
		}
		s.say("refused: %s", s.relabel(err.Error()))
		return
	}
	for _, e := range effects {
		s.tellEffect(e)
	}
}

func (s *teller) tellEffect(e broker.Effect) {
	switch e := e.(type) {
	case broker.SaveAccount, broker.SaveDerived:
	case broker.SaveJob:
		s.say("job %s %v", e.Job.ID, e.Job.State)
	case broker.SaveLease:
		l := e.Lease
		if s.labels[l.ID] == "" {
			j := s.world.Jobs[l.Job]
			s.labels[l.ID] = fmt.Sprintf("%s/%d", l.Job, j.Attempts)
		}
		s.say("lease %s %s", s.labels[l.ID], describe(l))
	case broker.Post:
		x := e.Transfer
		s.say("%s %v: %s -> %s", x.Ref, x.Amount, side(x.From, x.FromID), side(x.To, x.ToID))
	case broker.SendHold:
		bid := ""
		if len(e.Hold.Bid) > 0 {
			bid = ", whose bid was changed"
		}
		s.say("ask %s to hold %s%s%s", e.Provider, s.labels[e.Hold.Lease], bid, sources(e.Hold))
	case broker.SendConfirm:
		s.say("confirm %s to %s, at most %v", s.labels[e.Confirm.Lease], e.Provider, e.Confirm.MaxDuration)
	case broker.SendRelease:
		s.say("release %s at %s: %s", s.labels[e.Release.Lease], e.Provider, e.Release.Reason)
	case broker.SendRenewal:
		notice := ""
		if e.Renewal.Preempt > 0 {
			notice = fmt.Sprintf(", ends in %v", e.Renewal.Preempt)
		}
		s.say("renew %s for %v%s", s.labels[e.Renewal.Lease], e.Renewal.TTL, notice)
	case broker.SignReceipt:
		r := e.Receipt
		unused := ""
		if r.Unused > 0 {
			unused = fmt.Sprintf(", %v of it for %v unused", r.UnusedCost, r.Unused)
		}
		s.say("receipt %s: %v of %v used, %v%s%s, fee %v", s.labels[r.Lease], r.Billed, r.Used, r.Cost, unused, extras(r), r.Fee)
	}
}

// extras is what of a bill is not for GPUs.
func extras(r broker.Receipt) string {
	if r.Tariff == (broker.Tariff{}) {
		return ""
	}
	return fmt.Sprintf(", disk %v for %d MiB, traffic %v for %d MB in and %d MB out", r.DiskCost, r.DiskMiB, r.TrafficCost, r.Traffic.Ingress/1e6, r.Traffic.Egress/1e6)
}

func sources(h broker.Hold) string {
	if len(h.Sources) == 0 {
		return ""
	}
	var peers []string
	for _, b := range h.Sources {
		peers = append(peers, string(b.Peer))
	}
	return ", blocks are at " + strings.Join(peers, ", ")
}

func describe(l broker.Lease) string {
	states := []string{"holding", "granted", "active", "ending", "ended"}
	d := states[l.State-1]
	if l.Billed > 0 {
		d += fmt.Sprintf(" billed %v", l.Billed)
	}
	if len(l.Receipt) > 0 {
		d += " with receipt"
	}
	return d
}

func side(b broker.Book, id broker.AccountID) string {
	if id == "" {
		return string(b)
	}
	return fmt.Sprintf("%s/%s", id, b)
}

func (s *teller) relabel(text string) string {
	for id, label := range s.labels {
		text = strings.ReplaceAll(text, string(id), label)
	}
	return text
}

// start JOB CUSTOMER TOOK [QUERY] [peers=MiB] [local=MiB] [total=MiB]: a job's whole way in silence, and the time from
// grant to ready.
func (s *teller) start(c command) {
	s.Helper()
	quiet := &teller{T: s.T, world: s.world, labels: s.labels, epochs: s.epochs, seqs: s.seqs, sets: s.sets}
	quiet.step(quiet.submission(c))
	job := command{words: []string{c.words[0]}}
	quiet.step(quiet.grant(job))
	s.world.Now = s.world.Now.Add(must(time.ParseDuration(c.words[2])))
	quiet.step(quiet.report(command{words: []string{c.words[0], "ready"}, opts: c.opts}))
	s.world.Now = s.world.Now.Add(time.Second)
	quiet.step(quiet.report(command{words: []string{c.words[0], "exited"}, opts: map[string]string{"used": "1s"}}))
	if j := s.world.Jobs[broker.JobID(c.words[0])]; j.State != broker.JobDone {
		s.Fatalf("story: start %s: %s", c.words[0], quiet.out.String())
	}
}

func costs(c broker.Cost) string {
	extras := ""
	if c.Disk+c.Traffic > 0 {
		extras = fmt.Sprintf(" + disk %v + traffic %v", c.Disk, c.Traffic)
	}
	text := fmt.Sprintf("%v = run %v%s + start %v + failure %v + waiting %v; ready in %v", c.Total, c.Run, extras, c.Start, c.Failure, c.Waiting, c.Ready)
	if c.Sized {
		return fmt.Sprintf("%s, misses %d MiB, holds %d MiB", text, c.MissBytes>>20, c.HeldBytes>>20)
	}
	return text
}

// search [QUERY] [reserve=DURATION] [cost=yes] [sort=ORDER] [limit=N] [after=last] [explain=yes] [where QUERY]
func (s *teller) search(c command) {
	q := c.query()
	err := cmp.Or(set(&q.Where, broker.ParseFilter, c.opts["where"]), set(&q.Order, broker.ParseOrder, c.opts["sort"]))
	if err != nil {
		s.say("refused: %v", err)
		return
	}
	q.Limit = c.number("limit", 0)
	if c.opts["after"] != "" {
		q.After = s.next
	}
	found, err := s.world.Market.Search(q)
	if err != nil {
		s.say("refused: %v", err)
		return
	}
	s.next = found.Next
	for _, m := range found.Matches {
		image := ""
		if m.HasImage {
			image = ", has the image"
		}
		model := ""
		if c.opts["where"] != "" {
			model = " " + m.Offer.GPUs[0].Model
		}
		s.say("%s%s %v, %d free%s", m.Offer.Host, model, m.Rate, m.Free, image)
		if c.opts["cost"] != "" {
			s.say("    %s", costs(m.Cost))
		}
	}
	if found.Matched > len(found.Matches) || found.Next != "" {
		s.say("%d of %d that match", len(found.Matches), found.Matched)
	}
	s.say("applied: %s", strings.Join(found.Applied, "; "))
	for _, e := range found.Eliminated {
		nearest := ""
		if e.Nearest != "" {
			nearest = ", nearest: " + e.Nearest
		}
		s.say("eliminated %d by %s%s", e.Count, e.Predicate, nearest)
	}
	if c.opts["where"] != "" {
		for _, n := range found.Nearest {
			s.say("nearly: %s %s %v has %s, %s", n.Offer.Host, n.Offer.GPUs[0].Model, n.Rate, n.Has, admission(n))
		}
	}
	if c.opts["explain"] != "" {
		for _, a := range found.Alone {
			s.say("without %s: %d match", a.Predicate, a.Without)
		}
	}
}

func admission(n broker.NearMiss) string {
	if n.Admit == "" {
		return "matches without " + n.Predicate
	}
	return "matches with " + n.Admit
}

func set[T any](to *T, parse func(string) (T, error), text string) (err error) {
	*to, err = parse(text)
	return err
}

func (s *teller) quote(c command) {
	r := broker.QuoteRequest{Query: c.query(), Duration: must(time.ParseDuration(c.opts["for"]))}
	if v := c.opts["budget"]; v != "" {
		r.MaxCost = must(pricing.ParseMoney(v))
	}
	q, err := s.world.Market.Quote(r)
	if err != nil {
		s.say("refused: %v", err)
		return
	}
	s.say("%s at %v: %v, hold %v", q.Best.Offer.Host, q.Best.Rate, q.Cost, q.Hold)
}

func (s *teller) books() {
	world, fee := s.world.Market.Books()
	ids := make([]broker.AccountID, 0, len(s.world.Accounts))
	for id := range s.world.Accounts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		a, _ := s.world.Market.Account(id)
		s.say("%s: available %v, held %v, payable %v, spent %v", id, a.Available, a.Held, a.Payable, a.Spent)
	}
	s.say("world %v, fee %v", world, fee)
}
