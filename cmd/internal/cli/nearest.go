package cli

import (
	"strings"
	"unicode/utf8"
)

// maxWord bounds the words that are compared, so that a hostile argument costs nothing.
const maxWord = 64

// Nearest returns the candidate that a mistyped word most likely meant: the one at the smallest edit
// distance (insert, delete, replace, swap neighbours; case is free), if a third of the word or less
// is wrong, or else the first that the word abbreviates.
func Nearest(word string, candidates []string) (string, bool) {
	if word == "" || len(word) > maxWord {
		return "", false
	}
	folded := strings.ToLower(word)
	limit := max(1, utf8.RuneCountInString(folded)/3)
	best, distance := "", limit+1
	for _, c := range candidates {
		if len(c) > maxWord {
			continue
		}
		if d := editDistance(folded, strings.ToLower(c)); d < distance {
			best, distance = c, d
		}
	}
	if best != "" {
		return best, true
	}
	for _, c := range candidates {
		if fold := strings.ToLower(c); strings.HasPrefix(fold, folded) || strings.Contains(fold, " "+folded) {
			return c, true
		}
	}
	return "", false
}

// editDistance is the optimal string alignment distance of two short words.
func editDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, last, row := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(s); i++ {
		row[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(t)]
}
