package vast

import (
	"encoding/json"
	"math/big"
	"net/url"
	"testing"
	"time"

	"rialto/broker"
	"rialto/pricing"
)

// FuzzQuery reads searches: what is taken can be searched with, and means the same when it is read again.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"verified":{"eq":true},"gpu_ram":{"gte":24000.0},"num_gpus":{"eq":"1"},"order":[["score","desc"]],"type":"on-demand","limit":"5","allocated_storage":5.0}`,
		`{"q":{"id":{"in":[1,"2"]},"geolocation":{"eq":null}},"select_cols":["*"]}`, `{"driver_version":{"gte":"535"},"cuda_max_good":{"gte":12.8}}`,
		`{"gpu_name":{"in":["RTX 4090","A100 SXM4"]},"verified":{"eq":"any"}}`, `{"a":1,"a":2}`, `{"gpu_ram":{"gte":1e30}}`, `[`, `{"x":{}`,
	} {
		f.Add(s)
	}
	m, err := broker.NewMarket(broker.MarketConfig{Self: "b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := parseObject([]byte(s), "body")
		if err != nil {
			return
		}
		q, err := readQuery(o)
		if err != nil {
			if r := refusalOf(err); r.Status != 400 || r.Msg == "" {
				t.Errorf("refused with %d %q", r.Status, r.Msg)
			}
			return
		}
		if q.limit < 1 {
			t.Errorf("limit %d", q.limit)
		}
		text := q.where.String()
		again, err := broker.ParseFilter(text)
		if err != nil || again.String() != text {
			t.Errorf("%q reads as %q, %v", text, again.String(), err)
		}
		if _, err := m.Search(broker.Query{GPU: broker.GPURequest{Model: broker.AnyModel, Count: 1}, Where: q.where}); err != nil && refusalOf(err).Status != 400 {
			t.Errorf("search: %v", err)
		}
		q.sizes()
	})
}

// FuzzWish reads what is to be rented: what is taken makes a program, and its tag fits.
func FuzzWish(f *testing.F) {
	for _, s := range []string{
		`{"client_id":"me","image":"x","env":{"A":"b"},"price":null,"disk":10.0,"label":"l","runtype":"ssh","onstart":"echo"}`,
		`{"image":"x","args":["a"],"disk":"3.5"}`, `{"image":"x","env":{"-p 80:80":"1"}}`, `{"image":"x","price":"1e-9"}`, `{"image":"x","disk":1e300}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := parseObject([]byte(s), "body")
		if err != nil {
			return
		}
		r := read(o)
		w := readWish(r)
		if r.done() != nil {
			return
		}
		if w.image == "" {
			t.Error("no image")
		}
		offer := broker.Offer{DiskMiB: 1 << 20}
		fits := w.fits(&offer) == nil
		args, _ := w.command()
		if w.stays && len(args) != 5 || !w.stays && w.entry != "" && args[0] != w.entry {
			t.Errorf("command %q", args)
		}
		if w.diskMiB != 0 && w.diskMiB < broker.MinDiskMiB || fits && w.diskMiB > offer.DiskMiB {
			t.Errorf("a disk of %d MiB", w.diskMiB)
		}
		in := tag{Label: w.label, Runtype: w.runtype}
		if out := readTag(in.encode()); len(in.encode()) > 4<<10 || out != in {
			t.Errorf("tag %s reads as %+v", in.encode(), out)
		}
	})
}

// FuzzPage reads the parameters of a list.
func FuzzPage(f *testing.F) {
	f.Add(`{"label":{"in":[null,"x"]}}`, `[{"col":"id","dir":"asc"}]`, `["id","label"]`)
	f.Add(`{"num_gpus":{"neq":1.5}}`, `[{"col":"dph_total","dir":"desc"}]`, `["*"]`)
	i := instance{job: broker.Job{ID: "j", State: broker.JobRunning}}
	f.Fuzz(func(t *testing.T, filters, by, cols string) {
		q, err := readPage(url.Values{"select_filters": {filters}, "order_by": {by}, "select_cols": {cols}})
		if err != nil {
			return
		}
		rows := []row{i.row(time.Time{}), i.row(time.Time{})}
		order(rows, q.order)
		q.matches(rows[0])
		if b, err := json.Marshal(rows[0].pick(q.columns)); err != nil || !json.Valid(b) {
			t.Errorf("%s, %v", b, err)
		}
	})
}

// TestReaching bounds how many requests reach into containers at once, by account and in all.
func TestReaching(t *testing.T) {
	r := reaching{of: map[broker.AccountID]int{}}
	var leave []func()
	for range maxReachingOne {
		f, err := r.enter("a")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, f)
	}
	if _, err := r.enter("a"); refusalOf(err).Status != 429 {
		t.Errorf("one too many of an account: %v", err)
	}
	for i := range maxReaching - maxReachingOne {
		if _, err := r.enter(broker.AccountID(rune('b' + i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.enter("z"); refusalOf(err).retry == 0 {
		t.Errorf("one too many: %v", err)
	}
	leave[0]()
	if _, err := r.enter("a"); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

// TestMonthly reads what is shown of a price for a month as the same price again, and shows what owners say as they said it.
func TestMonthly(t *testing.T) {
	for rate := pricing.Rate(0); rate <= pricing.Rate(pricing.USD); rate += 1 + rate/100 {
		said, ok := new(big.Rat).SetString(string(monthly(rate)))
		if again := nearest(hourly(said)); !ok || again.Cmp(big.NewRat(int64(rate), 1)) != 0 {
			t.Errorf("%v is %s a month, and that %s nanodollars an hour", rate, monthly(rate), again.RatString())
		}
	}
	for _, want := range []string{"0", "0.1", "0.15", "0.199", "1", "0.00001", "720"} {
		said, _ := new(big.Rat).SetString(want)
		if got := string(monthly(pricing.Rate(nearest(hourly(said)).Num().Int64()))); got != want {
			t.Errorf("%s is shown as %s", want, got)
		}
	}
}
