package eventstore

// Mapping returns the mapping with all names that it left to defaults.
func (r *Reader) Mapping() Mapping { return r.mapping }
