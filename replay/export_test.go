package replay

// SetGroupSize makes the groups of a catch-up so small that a few events make several.
func (j *Job) SetGroupSize(events int64) { j.groupSize = events }

// ChooseBatches returns the numbers of the batches that the next pass reads. The batches have these estimates and are
// numbered from 1; ours are in a pass of this process, theirs with another one, and done are done.
func ChooseBatches(size int64, estimates []int64, ours, theirs, done []int) (numbers []int) {
	p := &passes{size: size, reserved: map[int]bool{}, taken: map[int]bool{}}
	for _, n := range ours {
		p.reserved[n] = true
	}
	for _, n := range theirs {
		p.taken[n] = true
	}
	var pending []batch
	for i, estimate := range estimates {
		pending = append(pending, batch{number: i + 1, estimate: estimate})
	}
	for _, n := range done {
		pending[n-1].number = 0
	}
	left := pending[:0]
	for _, b := range pending {
		if b.number > 0 {
			left = append(left, b)
		}
	}
	for _, b := range p.choose(left) {
		numbers = append(numbers, b.number)
	}
	return numbers
}
