package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// offersFlags are the flags of `rialto offers` beside those of a request.
type offersFlags struct {
	*request
	page    api.Page
	explain bool
	fields  bool
}

func (a *app) offersCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "offers [QUERY…] [IMAGE]",
		Short: "Show the GPUs on offer, cheapest first",
		Long: "Show the GPUs on offer, those first on which a job is expected to cost least: for its run, until\n" +
			"it is ready, and for what the host's failures may throw away. With an image, hosts that hold it or\n" +
			"fetch it fast are cheaper, the shorter the job the more; see --for. The answer says what eliminated how many offers, and what would admit the nearest.\n\n" +
			"A query is predicates FIELD OPERATOR VALUE, parted by spaces, that must all hold, in the language of\n" +
			"Vast's clients: operators = != < <= > >= in notin; in a word _ is a space; a list is [A,B]; FIELD=any\n" +
			"drops what was said before. Vast's names of fields have Vast's units, and numbers may carry others.\n" +
			"Quote it for the shell.",
		Example: "  rialto offers\n" +
			"  rialto offers 'gpu_name in [RTX_4090,RTX_3090] num_gpus=2 price<=0.50/h region!=US'\n" +
			"  rialto offers 'gpu_ram>=48 disk_space>1TB' --sort price,-gpu_ram --limit 10\n" +
			"  rialto offers --gpu 'RTX 4090:2' --max-price 0.50/h\n" +
			"  rialto offers 'gpu_ram>=80 price<1/h' --explain\n" +
			"  rialto offers --fields",
	}
	r := &offersFlags{request: newRequest(c)}
	for _, f := range []string{"env", "workdir", "max-cost"} {
		if err := c.Flags().MarkHidden(f); err != nil {
			panic(err) // a flag that newRequest does not declare
		}
	}
	c.Flags().Var(&value[string]{to: &r.page.Sort, parse: parseOrder, kind: "fields"}, "sort", "order by these fields, - for descending, such as price,-gpu_ram or ready_s")
	c.Flags().IntVar(&r.page.Limit, "limit", 0, "show at most this many offers (default all)")
	c.Flags().BoolVar(&r.explain, "explain", false, "show what each predicate does instead of the offers")
	c.Flags().BoolVar(&r.fields, "fields", false, "show what can be asked for instead of the offers")
	p := a.jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if r.fields {
			return p.Print(fieldsJSON(), writeFields)
		}
		if r.page.Limit < 0 || r.page.Limit > maxPage {
			return fmt.Errorf("--limit %d: want 1 to %d", r.page.Limit, maxPage)
		}
		image, err := r.take(args)
		if err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		q, err := a.search(c.Context(), m, r.request, image)
		if err != nil {
			return err
		}
		if r.explain {
			why, err := m.ExplainOffers(c.Context(), q)
			if err != nil {
				return explain(err)
			}
			return p.Print(why, func(w io.Writer) error { return writeExplanation(w, why) })
		}
		offers, err := r.find(c.Context(), m.Client, q)
		if err != nil {
			return explain(err)
		}
		return p.Print(offers, func(w io.Writer) error { return writeOffers(w, offers) })
	}
	a.completeRequest(c)
	c.ValidArgsFunction = a.completeQuery
	if err := c.RegisterFlagCompletionFunc("sort", completeOrder); err != nil {
		panic(err) // a flag that is declared above
	}
	return c
}

// maxPage is the most offers that the broker sends at once.
const maxPage = 1000

// take tells queries from an image among the arguments, and returns the image.
func (f *offersFlags) take(args []string) (image []string, err error) {
	query := []string{f.where}
	for _, arg := range args {
		if strings.ContainsAny(arg, "=<>! ") { // which no image has
			query = append(query, arg)
		} else {
			image = append(image, arg)
		}
	}
	if len(image) > 1 {
		err := fmt.Errorf("%q and %q are no query, and there can be but one image", image[0], image[1])
		return nil, cli.Hint(err, "a query is FIELD OPERATOR VALUE, such as 'gpu_ram>=24'")
	}
	f.where, err = parseQuery(strings.Join(query, " "))
	return image, err
}

// find returns one page of offers if the caller asks for few, or all.
func (f *offersFlags) find(ctx context.Context, market *api.Client, q api.Query) (api.Offers, error) {
	if f.page.Limit > 0 {
		return market.OffersPage(ctx, q, f.page)
	}
	return market.SortedOffers(ctx, q, f.page.Sort)
}

// search resolves what the flags name and returns the query; args may hold an image.
func (a *app) search(ctx context.Context, m *market, r *request, args []string) (api.Query, error) {
	if err := r.check(); err != nil {
		return api.Query{}, err
	}
	known, err := m.home.weights()
	if err != nil {
		return api.Query{}, err
	}
	mounts, err := r.mounts(known)
	if err != nil {
		return api.Query{}, err
	}
	var image imageRef
	if len(args) > 0 {
		if image, err = m.home.findImage(ctx, args[0]); err != nil {
			return api.Query{}, err
		}
	}
	if err := r.resolve(ctx, m.Client); err != nil {
		return api.Query{}, explain(err)
	}
	return r.query(image.digest, mounts), nil
}

// writeOffers draws the offers, the busy ones last, or says why there is none.
func writeOffers(w io.Writer, offers api.Offers) error {
	shown := slices.Concat(offers.Offers, offers.Busy)
	if len(shown) == 0 {
		return writeEliminations(w, offers)
	}
	t := cli.Table{Columns: []cli.Column{
		{Title: "GPU"},
		{Title: "MEMORY", Align: cli.Right},
		{Title: "FREE", Align: cli.Right, Tone: freeTone},
		{Title: "GPU-HOUR", Align: cli.Decimal, Tone: func(string) cli.Tone { return cli.Strong }},
		{Title: "CPUS", Align: cli.Right, Drop: true},
		{Title: "RAM", Align: cli.Right, Drop: true},
		{Title: "HOST"},
		{Title: "PROOF", Tone: proofTone},
	}}
	region := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.Region != "" })
	if region {
		t.Columns = append(t.Columns, cli.Column{Title: "REGION"})
	}
	const jobHour = 4 // behind the price of one GPU
	several := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.TotalRateNanoUSDPerHour != int64(hourly(o)) })
	if several {
		t.Columns = slices.Insert(t.Columns, jobHour, cli.Column{Title: "JOB-HOUR", Align: cli.Decimal})
	}
	beside := anyTariff(shown)
	if beside {
		t.Columns = slices.Insert(t.Columns, jobHour, cli.Column{Title: "ALL IN", Align: cli.Decimal})
		t.Columns = append(t.Columns, cli.Column{Title: "GiB-MONTH", Align: cli.Decimal, Drop: true}, cli.Column{Title: "GB IN/OUT", Drop: true})
	}
	reserved := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.ReservedMinMS > 0 })
	if reserved {
		t.Columns = append(t.Columns, cli.Column{Title: "RESERVED"})
	}
	bids := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.MinBidNanoUSDPerHour > 0 })
	if bids {
		t.Columns = append(t.Columns, cli.Column{Title: "LEAST BID", Align: cli.Decimal})
	}
	held := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.HasImage })
	if held {
		t.Columns = append(t.Columns, cli.Column{Title: "IMAGE", Tone: func(string) cli.Tone { return cli.Good }})
	}
	ready := slices.ContainsFunc(shown, func(o api.Offer) bool { return o.MissBytes != nil })
	if ready {
		t.Columns = append(t.Columns, cli.Column{Title: "READY IN", Align: cli.Right})
	}
	for _, o := range shown {
		proof := o.Level
		if o.Simulated {
			proof = simulated
		}
		row := []string{
			o.Model, cli.FormatMiB(o.GPUMemoryMiB), fmt.Sprintf("%d/%d", o.Free, o.GPUs), pricing.Money(hourly(o)).String(),
			strconv.Itoa(o.CPUsPerGPU), cli.FormatMiB(o.MemoryMiBPerGPU), tenant.HostName(o.Host, o.Provider), proof,
		}
		if region {
			row = append(row, o.Region)
		}
		if several {
			row = slices.Insert(row, jobHour, pricing.Money(o.TotalRateNanoUSDPerHour).String())
		}
		if beside {
			row = slices.Insert(row, jobHour, pricing.Money(o.AllInNanoUSDPerHour).String())
			row = append(row, diskText(o.Tariff), trafficText(o.Tariff))
		}
		if reserved {
			row = append(row, reservedText(o))
		}
		if bids {
			row = append(row, priceText(o.MinBidNanoUSDPerHour))
		}
		if held {
			row = append(row, map[bool]string{true: "on host"}[o.HasImage])
		}
		if ready {
			row = append(row, readyIn(o))
		}
		t.Add(row...)
	}
	if err := t.Write(w); err != nil {
		return err
	}
	if beside {
		fmt.Fprintln(w, cli.Paint(w, cli.Dim, "ALL IN is a GPU-hour with the disk and traffic of --disk, --traffic and --for: what --max-price limits."))
	}
	return writeRest(w, offers)
}

// hourly is the price of a GPU for the job that was asked for.
func hourly(o api.Offer) pricing.Rate {
	if o.Reserved {
		return pricing.Rate(o.ReservedRateNanoUSDPerHour)
	}
	return pricing.Rate(o.RateNanoUSDPerHour)
}

// reservedText is the price for who commits to a term, and the least term.
func reservedText(o api.Offer) string {
	if o.ReservedMinMS == 0 {
		return ""
	}
	text := fmt.Sprintf("%s from %s", pricing.Rate(o.ReservedRateNanoUSDPerHour), termText(time.Duration(o.ReservedMinMS)*time.Millisecond))
	if o.Reserved {
		return text + ", this price"
	}
	return text
}

// termText is a term for people: "7 d", "36h 00m".
func termText(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%d d", d/day)
	}
	return cli.FormatDuration(d)
}

// readyIn is how long a host is expected to take to start the image that was asked with.
func readyIn(o api.Offer) string {
	if o.MissBytes == nil {
		return "?"
	}
	return cli.FormatDuration(time.Duration(o.ReadyMS) * time.Millisecond)
}

// writeRest says what is not in the table, and why.
func writeRest(w io.Writer, offers api.Offers) error {
	if len(offers.Offers) < offers.Matched {
		fmt.Fprintf(w, "%d of %d offers that match are shown.\n", len(offers.Offers), offers.Matched)
	}
	if offers.Matched == offers.Total {
		return nil
	}
	fmt.Fprintf(w, "%d of %d offers match:\n", offers.Matched, offers.Total)
	for _, e := range eliminations(offers) {
		fmt.Fprintln(w, "  "+e)
	}
	return writeNearest(w, offers.Nearest)
}

// maxNearest is how many near misses people want to read about.
const maxNearest = 3

// writeNearest says what would admit the offers nearest to matching.
func writeNearest(w io.Writer, nearest []api.NearMiss) error {
	for i, n := range nearest[:min(len(nearest), maxNearest)] {
		if i == 0 {
			fmt.Fprintln(w, cli.Paint(w, cli.Dim, "Nearly:"))
		}
		fmt.Fprintf(w, "  %s on %s at %s, with %s\n", cli.Clean(n.Offer.Model), tenant.HostName(n.Offer.Host, n.Offer.Provider),
			hourly(n.Offer), admission(n))
	}
	return nil
}

// admission is the predicate that would admit a near miss.
func admission(n api.NearMiss) string {
	if n.Admit == "" {
		return "any value instead of " + cli.Clean(n.Predicate)
	}
	return cli.Clean(n.Admit)
}

func freeTone(free string) cli.Tone {
	if strings.HasPrefix(free, "0/") {
		return cli.Dim
	}
	return cli.Plain
}

func proofTone(proof string) cli.Tone {
	switch proof {
	case simulated:
		return cli.Warn
	case "claimed":
		return cli.Dim
	default:
		return cli.Good
	}
}

func writeEliminations(w io.Writer, offers api.Offers) error {
	if offers.Total == 0 {
		_, err := fmt.Fprintln(w, "No offers: no provider is connected to the broker.")
		return err
	}
	fmt.Fprintf(w, "No offer of %d matches:\n", offers.Total)
	for _, e := range eliminations(offers) {
		if _, err := fmt.Fprintln(w, "  "+e); err != nil {
			return err
		}
	}
	return writeNearest(w, offers.Nearest)
}

// eliminations says what removed how many offers, and how near the nearest miss was.
func eliminations(offers api.Offers) []string {
	var all []string
	for _, e := range offers.Eliminated {
		if e.Count == 0 {
			continue
		}
		s := fmt.Sprintf("%d eliminated by %s", e.Count, cli.Clean(e.Predicate))
		if e.Nearest != "" {
			s += " (nearest: " + cli.Clean(e.Nearest) + ")"
		}
		all = append(all, s)
	}
	return all
}
