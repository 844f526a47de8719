package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"rialto/broker"
	"rialto/broker/markettest"
)

// TestFilterText: what the language takes, and its canonical form.
func TestFilterText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"  \t\n":                             "",
		"gpu_name=RTX_4090":                  "gpu_name=RTX_4090",
		`gpu_name="rtx 4090"`:                "gpu_name=RTX_4090",
		"model eq h100-sxm":                  "gpu_name=H100_SXM",
		"gpu_name=Tesla_T4":                  "gpu_name=T4",
		"gpu_name=RTX_4070S_Ti":              "gpu_name=RTX_4070_Ti_SUPER",
		"gpu_name=RTX_A2000":                 "gpu_name=RTX_A2000",
		"gpu_name=A100_SXM4":                 "gpu_name in [A100_SXM_40GB,A100_SXM_80GB]",
		"gpu_name!=A100_PCIE":                "gpu_name notin [A100_PCIe_40GB,A100_PCIe_80GB]",
		`gpu_name in [RTX_4090, "RTX 3090"]`: "gpu_name in [RTX_4090,RTX_3090]",
		"gpu_name in[RTX_4090]":              "gpu_name in [RTX_4090]",
		// Operators in all spellings, with and without spaces.
		"gpus = 1": "gpus=1", "gpus==1": "gpus=1", "gpus eq 1": "gpus=1",
		"gpus != 1": "gpus!=1", "gpus neq 1": "gpus!=1", "gpus noteq 1": "gpus!=1", "gpus not eq 1": "gpus!=1",
		"gpus<1": "gpus<1", "gpus lt 1": "gpus<1", "gpus<= 1": "gpus<=1", "gpus lte 1": "gpus<=1",
		"gpus >1": "gpus>1", "gpus gt 1": "gpus>1", "gpus>=1": "gpus>=1", "gpus gte 1": "gpus>=1",
		"gpus in [1,2]": "gpus in [1,2]", "gpus notin [1]": "gpus notin [1]", "gpus nin [1]": "gpus notin [1]", "gpus not in [1]": "gpus notin [1]",
		// Same field, different operators: a range. The same twice: the last, but exclusions add up.
		"gpu_ram>=16 gpu_ram<48":              "gpu_ram>=16GiB gpu_ram<48GiB",
		"gpu_ram>=16 gpus=1 gpu_ram>=24":      "gpus=1 gpu_ram>=24GiB",
		"region!=US region!=CN region!=US":    "region!=US region!=CN",
		"region notin [US] region notin [CN]": "region notin [US] region notin [CN]",
		// Deletion.
		"gpu_name=RTX_4090 gpus=1 gpu_name=any": "gpus=1",
		"gpu=RTX_4090 model=?":                  "",
		"gpus>1 gpus<4 gpus = *":                "",
		`host="any"`:                            `host="any"`,
		// Units. Vast's names have Vast's.
		"gpu_ram>=24GiB": "gpu_ram>=24GiB", "gpu_ram>=24GB": "gpu_ram>=24GiB", "gpu_ram>=24000MB": "gpu_ram>=24GiB", "gpu_ram>=0.5TB": "gpu_ram>=500GiB",
		"gpu_ram=24.0": "gpu_ram=24GiB", "gpu_ram_mib>=24564": "gpu_ram_mib>=24564MiB", "gpu_memory_mib>=24564": "gpu_ram_mib>=24564MiB",
		"gpu_total_ram>80": "gpu_total_ram>80GiB", "gpu_totalram>80": "gpu_total_ram>80GiB",
		"cpu_ram>=32": "memory>=32GB", "memory>=32GiB": "memory>=32GiB", "memory_mib>=512": "memory>=512MiB",
		"disk_space>1TB": "disk>1TB", "disk_space>100": "disk>100GB", "disk_mib>0": "disk>0B", "disk>1.5kib": "disk>1536B",
		"price<=0.40/h": "price<=0.40/h", "price<=$0.40": "price<=0.40/h", "price<0.0001/s": "price<0.36/h",
		"rate_nanousd_per_hour<=400000000": "price<=0.40/h", "dph<=2": "total_price<=2.00/h", "dph_total<=2/h": "total_price<=2.00/h",
		"dph_base>1": "base_price>1.00/h", "all_in_price<=0.40": "all_in_price<=0.40/h", "disk_price<=0.001/h": "disk_price<=0.001/h",
		"storage_cost<=0.72": "disk_price<=0.001/h", "storage_cost<=0.10": "disk_price<=0.000138889/h", "storage_cost<=0.001/h": "disk_price<=0.001/h", "disk_price<=$0.72/month": "disk_price<=0.001/h", "price<360/month": "price<0.50/h",
		"storage_total_cost<=0.01": "job_disk_price<=0.01/h", "inet_up_cost<=0.02": "egress_price<=0.02/GB", "inet_down_cost<$0.02/gb": "ingress_price<0.02/GB",
		"gpu_max_power<=350": "power_limit<=350W", "power_limit<=0.35kW": "power_limit<=350W", "power_limit<350.5": "power_limit<350500mW",
		// Versions and compute capability.
		"driver_version>=535": "driver>=535.0", "driver_version>=535.86.05": "driver>=535.86.5", "driver_vers>=535086005": "driver>=535.86.5",
		"cuda_max_good>=12.8": "cuda>=12.8", "cuda_vers>=12": "cuda>=12.0", "compute_cap>=890": "compute_cap>=890", "compute_cap>=8.9": "compute_cap>=890",
		// Truth, countries, null.
		"verified=True rentable=false": "verified=true rentable=false", "geolocation in [SE,DE]": "region in [SE,DE]", "geolocation=de": "region=DE",
		"region=EU":                   "region in [AT,BE,BG,CY,CZ,DE,DK,EE,ES,FI,FR,GR,HR,HU,IE,IT,LT,LU,LV,MT,NL,PL,PT,RO,SE,SI,SK]",
		"region in [GB,eu]":           "region in [GB,AT,BE,BG,CY,CZ,DE,DK,EE,ES,FI,FR,GR,HR,HU,IE,IT,LT,LU,LV,MT,NL,PL,PT,RO,SE,SI,SK]",
		"geolocation!=EU":             "region notin [AT,BE,BG,CY,CZ,DE,DK,EE,ES,FI,FR,GR,HR,HU,IE,IT,LT,LU,LV,MT,NL,PL,PT,RO,SE,SI,SK]",
		`geolocation="Texas, US, NA"`: "region=US", `geolocation=", US, NA"`: "region=US", "region=null": "region=null", "driver!=None": "driver!=null",
		"level>=nvml": "level>=nvml", "reliability2>0.98": "reliability>0.98", "reliability>=99.5%": "reliability>=0.995", "reliability<=1": "reliability<=1",
		// Quoting.
		`host="a \"b\" \\c"`: `host="a \"b\" \\c"`, "host=my_host": "host=my_host", `host="my  host"`: `host="my  host"`, "machine_id=12D3Koo": "provider=12D3Koo",
		`host="null"`: `host="null"`, `host="ä"`: `host="ä"`, `host in ["a,b]",c]`: `host in ["a,b]",c]`,
	} {
		f, err := broker.ParseFilter(in)
		if err != nil || f.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, f, err, want)
		}
		if again, err := broker.ParseFilter(f.String()); err != nil || again.String() != want {
			t.Errorf("%s: again %s, %v, want %s", f, again, err, want)
		}
	}
}

// TestFilterErrors: an error names the field and the nearest valid name or value.
func TestFilterErrors(t *testing.T) {
	for _, tt := range []struct{ in, field, nearest, problem string }{
		{"gpu_rma>=24", "gpu_rma", "gpu_ram", "no such field"},
		{"GPU_NAME=x", "GPU_NAME", "gpu_name", "no such field"},
		{"num_gpu=1", "num_gpu", "num_gpus", "no such field"},
		{"compute_capabilty>=8.0", "compute_capabilty", "compute_capability", "no such field"},
		{"zzz=1", "zzz", "", "no such field"},
		{"dlperf>10", "dlperf", "", "no evidence"},
		{"inet_down>=100 gpus=1", "inet_down", "", "no evidence"},
		{"reliability>98", "reliability", "98%", "0 to 1"},
		{"reliability>good", "reliability", "", "want a number"},
		{"reliability_mult>1", "reliability_mult", "", "no evidence"},
		{"duration>3", "duration", "", "no evidence"},
		{"gpus=>1", "gpus", ">=", "no operator"},
		{"gpus=<1", "gpus", "<=", "no operator"},
		{"gpus<>1", "gpus", "!=", "no operator"},
		{"gpus gtee 1", "gpus", "gte", "no operator"},
		{"gpus not 1", "gpus", "not eq", "no operator"},
		{"gpus ~ 1", "gpus", "", "no operator"},
		{"gpus", "gpus", "gpus=…", "want an operator"},
		{"verified", "verified", "verified=true", "want an operator"},
		{"gpus=", "gpus", "", "want a value"},
		{"gpus=1.5", "gpus", "2", "whole number"},
		{"gpus=one", "gpus", "", "want a number"},
		{"gpus=-1", "gpus", "", "want a number"},
		{"gpus=1e3", "gpus", "", "want a number"},
		{"gpus=99999999999", "gpus", "", "too large"},
		{"gpu_ram>=24, gpus=1", "gpu_ram", "24GiB", "unknown unit"},
		{"gpu_ram>=24GIG", "gpu_ram", "24GiB", "unknown unit"},
		{"gpu_ram>=24Mb/s", "gpu_ram", "24MiB", "unknown unit"},
		{"gpu_ram>=24 GiB", "query", "24GiB", "without a space"},
		{"memory>=32", "memory", "32GiB", "unit missing"},
		{"disk>9999999PiB", "disk", "", "too large"},
		{"price<=0.40/m", "price", "0.40/h", "unknown unit"},
		{"price<=cheap", "price", "", "want digits"},
		{"price<=-1", "price", "", "below zero"},
		{"egress_price<=0.02/TB", "egress_price", "0.02/GB", "unknown unit"},
		{"egress_price<=-1", "egress_price", "", "below zero"},
		{"ingress_price<=9999999", "ingress_price", "", "too large"},
		{"ingress_price<=free", "ingress_price", "", "want digits"},
		{"storage_cost<=9999999999", "storage_cost", "", "too large"},
		{"storage_cost<=x/month", "storage_cost", "", "want a number"},
		{"vram_costperhour<=1", "vram_costperhour", "", "no evidence"},
		{"allocated_storage>=8", "allocated_storage", "", "no evidence"},
		{"power_limit<300watt", "power_limit", "300W", "unknown unit"},
		{"driver>=new", "driver", "", "want a version"},
		{"driver>=1.2.3.4", "driver", "", "want a version"},
		{"compute_cap>=9", "compute_cap", "9.0", "such as 8.9"},
		{"compute_cap>=8.95", "compute_cap", "", "such as 8.9"},
		{"verified=yes", "verified", "true", "want true or false"},
		{"verified>=true", "verified", "verified=true", "no order"},
		{"host>a", "host", "host=a", "no order"},
		{"level=nvm", "level", "nvml", "claimed or nvml"},
		{"region=UK", "region", "GB", "no such country"},
		{"region=USA", "region", "US", "two letters"},
		{"region=XQ", "region", "", "no such country"},
		{"gpus in 1", "gpus", "gpus in [1]", "takes a list"},
		{"gpus=[1,2]", "gpus", "gpus in […]", "not a list"},
		{"gpus>=[1]", "gpus", "gpus in […]", "not a list"},
		{"gpus in [1,2", "gpus", "", "no end"},
		{"gpus in []", "gpus", "", "want a value"},
		{"gpus in [1,,2]", "gpus", "", "want a value"},
		{"gpus in [1,any]", "gpus", "", "cannot be in a list"},
		{"gpus>=any", "gpus", "gpus=any", "only with ="},
		{"gpus>=null", "gpus", "gpus=null", "only with ="},
		{`host="abc`, "host", "", "no end"},
		{`host="a"b`, "host", "", "want a space"},
		{"host='a b'", "host", `"a"`, "double quotes"},
		{"gpus=1 or gpus=2", "query", "FIELD in [A,B]", "no or"},
		{"gpus=1 and verified=true", "query", "", "joined by spaces"},
		{"(gpus=1)", "query", "", "want FIELD"},
		{"gpus=1 gpu_ram>=24gpus=2", "gpu_ram", `"24gpus=2"`, "double quotes"},
		{"gpus=\x001", "query", "", "cannot be printed"},
		{"host=\"\u202e\"", "query", "", "cannot be printed"},
		{strings.Repeat("x", 5000), "query", "", "longer than"},
		{"gpus in [" + strings.Repeat("1,", 64) + "1]", "gpus", "", "65 values"},
		{"gpu_name=-", "gpu_name", "RTX_4090", "GPU model"},
	} {
		f, err := broker.ParseFilter(tt.in)
		e, ok := errors.AsType[*broker.FieldError](err)
		if !ok || e.Field != tt.field || e.Nearest != tt.nearest || !strings.Contains(e.Problem, tt.problem) || !f.IsZero() {
			t.Errorf("%.80s: got %v, %#v; want %s, nearest %q, %s", tt.in, f, err, tt.field, tt.nearest, tt.problem)
		}
	}
	var long []string
	for i := range 33 {
		long = append(long, fmt.Sprintf("host!=h%d", i))
	}
	if _, err := broker.ParseFilter(strings.Join(long, " ")); err == nil {
		t.Error("33 predicates were taken")
	}
	if _, err := broker.ParseFilter(strings.Join(long[1:], " ")); err != nil {
		t.Error(err)
	}
	list := "[" + strings.Repeat("a,", 63) + "a]"
	if _, err := broker.ParseFilter("host in " + list + " provider in " + list + " id=a"); err == nil {
		t.Error("129 values were taken")
	}
}

func TestFieldsAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range broker.Fields() {
		for _, name := range append([]broker.FieldName{{Name: f.Name}}, f.Aliases...) {
			if seen[name.Name] || strings.Trim(name.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
				t.Errorf("%s: twice, or no name", name.Name)
			}
			seen[name.Name] = true
		}
		if f.Doc == "" || (f.Kind == 0) != (f.Evidence == broker.EvidenceNone) {
			t.Errorf("%s: %+v", f.Name, f)
		}
	}
	// What Vast's clients ask for is known, even where nobody measures it (market.md §2.3).
	for name := range strings.FieldsSeq(`id num_gpus gpu_name gpu_ram gpu_total_ram gpu_totalram compute_cap cuda_max_good cuda_vers driver_version
		driver_vers cpu_ram cpu_cores cpu_cores_effective disk_space dph dph_total dphtotal dlperf dlperf_usd flops_usd score inet_up inet_down reliability
		reliability2 duration machine_id host_id verified rentable rented external geolocation direct_port_count static_ip min_bid pci_gen pcie_bw
		gpu_mem_bw bw_nvlink gpu_max_power gpu_display_active total_flops has_avx storage_cost hosting_type datacenter ubuntu_version`) {
		if !seen[name] {
			t.Errorf("%s is not known", name)
		}
	}
}

// offer is a host with everything said.
func fullOffer() broker.Offer {
	o := markettest.Offer("my_host", "RTX 4090", 4, 400_000_000)
	o.Region, o.DiskMiB, o.Agent = "DE", 1<<20, "v1.2.3"
	o.CPUs, o.MemoryMiB = 8, 32<<10
	for i := range o.GPUs {
		g := &o.GPUs[i]
		g.MemoryMiB, g.Driver, g.CUDA, g.ComputeMajor, g.ComputeMinor, g.PowerLimitMW, g.Level = 24564, "535.86.05", "12.2", 8, 9, 450_000, broker.LevelNVML
	}
	return o
}

// TestFails checks each field against one offer, for a job of two GPUs, as its provider does.
func TestFails(t *testing.T) {
	o := fullOffer()
	bare := markettest.Offer("bare", "RTX 4090", 1, 0)
	bare.GPUs[0].Driver, bare.GPUs[0].CUDA = "", ""
	for query, want := range map[string]string{ // the predicate that fails
		"gpu_name=rtx4090 num_gpus=2 gpus=4 gpu_ram=24 gpu_ram>=24 gpu_ram<=24 gpu_ram_mib=24564 gpu_total_ram=48": "",
		"price=0.40/h total_price=0.80 dph_total<=0.8 cpus=16 cpus_per_gpu=8 memory=64GiB memory_per_gpu=32GiB":    "",
		"disk=1TiB region=DE host=my_host host=MY_HOST provider=my_host level=nvml verified=true simulated=false":  "",
		"driver=535.86.05 driver>535 driver_vers>=535086005 cuda=12.2 cuda>=12 compute_cap=8.9 power_limit=450":    "",
		"agent=v1.2.3 external=false gpu_arch=nvidia region!=US region notin [US,FR]":                              "",
		// What only the market or the query knows is passed over.
		"free>=9 rentable=false rented=true has_image=true": "",
		"gpu_ram>24":                 "gpu_ram>24GiB",
		"gpu_ram<24":                 "gpu_ram<24GiB",
		"gpu_ram_mib>=24GiB":         "gpu_ram_mib>=24GiB",
		"gpu_name!=RTX_4090":         "gpu_name!=RTX_4090",
		"cuda>=12.10":                "cuda>=12.10",
		"driver>=535.104":            "driver>=535.104",
		"region=null":                "region=null",
		"region!=DE":                 "region!=DE",
		"simulated=true":             "simulated=true",
		"total_price<0.80":           "total_price<0.80/h",
		"gpus=2":                     "gpus=2",
		"num_gpus=1":                 "num_gpus=1",
		"memory>64GiB gpus>9":        "memory>64GiB",
		"external=true gpus>9":       "external=true",
		"gpu_name in [T4,A100_SXM4]": "gpu_name in [T4,A100_SXM_40GB,A100_SXM_80GB]",
	} {
		f, err := broker.ParseFilter(query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got := ""
		if p, fails := f.Fails(&o, &broker.JobSpec{GPU: broker.GPURequest{Count: 2}, MaxDuration: time.Hour}); fails {
			got = p.String()
		}
		if got != want {
			t.Errorf("%s: fails %q, want %q", query, got, want)
		}
	}
	// What nobody says satisfies nothing, not even "is not".
	for query, want := range map[string]bool{
		"region!=US": true, "region=null": false, "region!=null": true, "region notin [US]": true, "driver<9999": true, "driver=null": false,
		"cuda>=0.1": true, "disk>=0B": true, "power_limit<9": true, "compute_cap!=890": true,
	} {
		f, err := broker.ParseFilter(strings.ReplaceAll(query, "9999", "999"))
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		bare.Region, bare.DiskMiB, bare.Agent = "", 0, ""
		if _, fails := f.Fails(&bare, &broker.JobSpec{GPU: broker.GPURequest{Count: 1}, MaxDuration: time.Hour}); fails != want {
			t.Errorf("%s of an offer that does not say: fails %v, want %v", query, fails, want)
		}
	}
}

// TestNominalSizes: a driver reports up to 7 % less than a card is sold with.
func TestNominalSizes(t *testing.T) {
	for _, tt := range []struct {
		model     string
		mib, want uint64
	}{
		{"RTX 4090", 24564, 24 << 10},
		{"RTX 4090", 49140, 48 << 10},
		{"RTX 4090", 24 << 10, 24 << 10},
		{"A40", 46068, 48 << 10},
		{"L40S", 46068, 48 << 10},
		{"H100 SXM", 81559, 80 << 10},
		{"H100 NVL", 95830, 94 << 10},
		{"H200", 143771, 141 << 10},
		{"B200", 183358, 180 << 10},
		{"RTX 5090", 32607, 32 << 10},
		{"RTX A2000", 6138, 6 << 10},
		{"RTX PRO 6000 Blackwell", 97887, 96 << 10},
		{"RTX 2080 Ti", 22528, 22528},
		{"RTX 4090", 22856, 24 << 10},
		{"RTX 4090", 22855, 22855},
		{"RTX 4090", 22000, 22000},
		{"unheard of", 1, 1},
	} {
		g := broker.GPU{Model: tt.model, MemoryMiB: tt.mib}
		if got := g.NominalMiB(); got != tt.want {
			t.Errorf("%s with %d MiB: %d, want %d", tt.model, tt.mib, got, tt.want)
		}
	}
}

func TestOrder(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "price,-gpu_ram": "price,-gpu_ram", "dph_total,score-": "!score", "dph_total,gpu_ram-": "total_price,-gpu_ram", "+price, -cuda": "price,-cuda",
		"pric": "!pric", "price,dph_base,price": "!sort", "price,": "!", "--price": "!-price", "host-": "-host", "disk,cpus,gpus,free,cuda,driver,level,id,host": "!sort",
	} {
		o, err := broker.ParseOrder(in)
		got := o.String()
		if e, ok := errors.AsType[*broker.FieldError](err); ok {
			got = "!" + e.Field
		}
		if got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestPredicateParts(t *testing.T) {
	p, err := broker.NewPredicate("gpu_ram", "gte", "24000MB")
	if err != nil || p.String() != "gpu_ram>=24GiB" || p.Field() != "gpu_ram" || p.Op() != broker.OpAtLeast {
		t.Errorf("got %v, %v", p, err)
	}
	if p, err = broker.NewPredicate("host", "not in", "a_b", `c"`); err != nil || p.String() != `host notin ["a_b","c\""]` {
		t.Errorf("got %v, %v", p, err)
	}
	for _, bad := range [][]string{{"gpus", "~", "1"}, {"gpus", "=", "1", "2"}, {"gpus", "in"}, {"gpu", "eq", ""}, {"dlperf", "eq", "1"}} {
		if p, err := broker.NewPredicate(bad[0], bad[1], bad[2:]...); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%q: got %v, %v", bad, p, err)
		}
	}
	f := broker.Filter{}.With(p)
	if !f.Has("hostname") || f.Has("gpus") || !f.Without("host").IsZero() || !slices.EqualFunc(f.Predicates(), []broker.Predicate{p}, func(a, b broker.Predicate) bool { return a.String() == b.String() }) {
		t.Errorf("got %v", f)
	}
}
