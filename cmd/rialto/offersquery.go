package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/broker/api"
	"rialto/cmd/internal/cli"
	"rialto/cmd/internal/tenant"
	"rialto/pricing"
)

// parseOrder returns an order in canonical form.
func parseOrder(s string) (string, error) {
	o, err := broker.ParseOrder(s)
	return o.String(), err
}

// writeExplanation draws what each predicate does.
func writeExplanation(w io.Writer, e api.Explanation) error {
	t := cli.Table{Columns: []cli.Column{
		{Title: "PREDICATE"},
		{Title: "ELIMINATED", Align: cli.Right},
		{Title: "MATCH WITHOUT IT", Align: cli.Right},
		{Title: "CHEAPEST NEAR MISS"},
		{Title: "GPU-HOUR", Align: cli.Decimal},
		{Title: "HAS"},
		{Title: "MATCHES WITH", Shrink: true},
	}}
	for _, p := range e.Predicates {
		row := []string{cli.Clean(p.Predicate), strconv.Itoa(p.Eliminated), strconv.Itoa(p.Without), "", "", "", ""}
		if n := p.Cheapest; n != nil {
			row = append(row[:3], cli.Clean(n.Offer.Model)+" on "+tenant.HostName(n.Offer.Host, n.Offer.Provider),
				pricing.Money(hourly(n.Offer)).String(), cli.Clean(n.Has), admission(*n))
		}
		t.Add(row...)
	}
	if err := t.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d offers match; %d more would if enough of their GPUs were free.\n", e.Matched, e.Total, e.Waiting)
	return err
}

// field is a field of the query language as JSON.
type field struct {
	Name     string   `json:"name"`
	Aliases  []string `json:"aliases"`
	Unit     string   `json:"unit,omitempty"` // of a number without one
	Evidence string   `json:"evidence"`
	Doc      string   `json:"doc"`
}

func fieldsJSON() []field {
	var all []field
	for _, f := range broker.Fields() {
		x := field{Name: f.Name, Aliases: []string{}, Unit: f.Unit, Evidence: string(f.Evidence), Doc: f.Doc}
		for _, a := range f.Aliases {
			x.Aliases = append(x.Aliases, a.Name)
		}
		all = append(all, x)
	}
	return all
}

// writeFields draws what can be asked for, and says what cannot.
func writeFields(w io.Writer) error {
	t := cli.Table{Columns: []cli.Column{{Title: "FIELD"}, {Title: "ALSO CALLED"}, {Title: "WHOSE WORD"}, {Title: "WHAT IT IS", Shrink: true}}}
	missing := map[string][]string{}
	var reasons []string
	for _, f := range broker.Fields() {
		if f.Evidence == broker.EvidenceNone {
			if missing[f.Doc] == nil {
				reasons = append(reasons, f.Doc)
			}
			missing[f.Doc] = append(missing[f.Doc], f.Name)
			continue
		}
		t.Add(unitName(f.Name, f.Unit), aliasNames(f), string(f.Evidence), f.Doc)
	}
	if err := t.Write(w); err != nil {
		return err
	}
	fmt.Fprintln(w, "In parentheses: the unit of a number that has none.\n\nNot yet:")
	for _, why := range reasons {
		fmt.Fprintf(w, "  %s: %s\n", why, strings.Join(missing[why], " "))
	}
	return nil
}

func unitName(name, unit string) string {
	if unit == "" {
		return name
	}
	return name + " (" + unit + ")"
}

func aliasNames(f broker.Field) string {
	var all []string
	for _, a := range f.Aliases {
		all = append(all, unitName(a.Name, a.Unit))
	}
	return strings.Join(all, ", ")
}

// completeRequest completes the image and the flags that name things of the market.
func (a *app) completeRequest(c *cobra.Command) {
	c.ValidArgsFunction = a.completeImages
	for flag, complete := range map[string]cobra.CompletionFunc{
		"gpu": a.completeModels, "provider": a.completeHosts, "weights": a.completeWeights, "where": a.completeQuery,
	} {
		if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // a flag that newRequest does not declare
		}
	}
}

// completeQuery completes the last word of a query: a field, or the value behind its operator.
func (a *app) completeQuery(c *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveKeepOrder
	i := strings.LastIndexByte(text, ' ') + 1
	before, last := text[:i], text[i:]
	var all []string
	add := func(s, what string) {
		if strings.HasPrefix(s, last) {
			all = append(all, cobra.CompletionWithDesc(before+s, what))
		}
	}
	if i := strings.IndexAny(last, "=<>!"); i >= 0 {
		value := i + strings.IndexFunc(last[i:]+"x", func(r rune) bool { return !strings.ContainsRune("=<>!", r) })
		for _, v := range a.values(c, last[:i]) {
			add(last[:value]+v, "")
		}
		return all, none
	}
	for _, f := range broker.Fields() {
		if f.Evidence == broker.EvidenceNone {
			continue
		}
		for _, name := range append([]string{f.Name}, otherNames(f)...) {
			add(name, f.Doc)
		}
	}
	return all, none
}

// values are what a field is likely to be compared with.
func (a *app) values(c *cobra.Command, name string) []string {
	for _, f := range broker.Fields() {
		if f.Name != name && !slices.Contains(otherNames(f), name) {
			continue
		}
		switch f.Kind {
		case broker.KindBool:
			return []string{"true", "false"}
		case broker.KindLevel:
			return []string{"claimed", "nvml"}
		case broker.KindModel:
			var all []string
			for _, o := range a.liveOffers(c.Context()) {
				all = append(all, o.Model)
			}
			for _, m := range broker.Models() {
				all = append(all, m.Name)
			}
			slices.Sort(all)
			for i := range all {
				all[i] = strings.ReplaceAll(all[i], " ", "_")
			}
			return slices.Compact(all)
		default:
		}
	}
	return nil
}

func otherNames(f broker.Field) []string {
	var all []string
	for _, a := range f.Aliases {
		all = append(all, a.Name)
	}
	return all
}

// completeOrder completes the last field of an order.
func completeOrder(_ *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
	i := strings.LastIndexByte(text, ',') + 1
	sign := ""
	if strings.HasPrefix(text[i:], "-") {
		sign = "-"
	}
	var all []string
	for _, f := range broker.Fields() {
		if s := sign + f.Name; f.Evidence != broker.EvidenceNone && strings.HasPrefix(s, text[i:]) {
			all = append(all, cobra.CompletionWithDesc(text[:i]+s, f.Doc))
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
