// Package nearest finds what somebody may have meant who typed something else.
package nearest

import (
	"iter"
	"slices"
	"strings"

	"github.com/xrash/smetrics"
)

// Name returns the known name that takes the fewest changes to make of a wrong one, whatever their case, if these are few; of
// several the first in the alphabet. It is empty if no name is near.
func Name(wrong string, known iter.Seq[string]) (name string) {
	fewest := min(len(wrong)/3+2, len(wrong))
	for _, k := range slices.Sorted(known) {
		if d := smetrics.WagnerFischer(strings.ToLower(wrong), strings.ToLower(k), 1, 1, 1); d < fewest {
			name, fewest = k, d
		}
	}
	return name
}

// DidYouMean asks for the nearest name, with the prefix before it, to be appended to a message; it is empty if no name is near.
func DidYouMean(prefix, wrong string, known iter.Seq[string]) string {
	if name := Name(wrong, known); name != "" {
		return "; did you mean " + prefix + name + "?"
	}
	return ""
}
