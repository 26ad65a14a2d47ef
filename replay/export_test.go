package replay

// SetGroupSize makes the groups of a catch-up so small that a few events make several.
func (j *Job) SetGroupSize(events int64) { j.groupSize = events }
