package broker

import "strings"

// EU stands for the members of the European Union wherever a country is asked for. It is ISO 3166-1's own word for them,
// and no country's code.
const EU = "EU"

// EUMembers lists the countries of the European Union by their codes.
func EUMembers() []string {
	return strings.Fields("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK")
}
