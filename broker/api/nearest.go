package api

// nearest returns the candidate that needs the fewest edits to become s, or "" when none is near: more
// than a third of the longer word would have to change.
func nearest(s string, candidates []string) string {
	best, bestCost := "", 0
	for _, c := range candidates {
		cost := distance(s, c)
		if cost*3 > max(len(s), len(c)) {
			continue
		}
		if best == "" || cost < bestCost || cost == bestCost && c < best {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance is the Levenshtein distance over bytes; field names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
