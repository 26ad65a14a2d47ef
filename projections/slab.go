package projections

// slab hands out zeroed values whose addresses stay, and takes them back all at once.
type slab[T any] struct {
	chunks [][]T
	used   int
}

const (
	chunkLen  = 64 // values
	keepLen   = 64 // chunks: one huge aggregate must not hold its memory for good
	keepInMap = 1024
	keepBytes = 1 << 20

	// Of a batch of a catch-up: for its aggregates, and for what a table has of them.
	keepPlaces  = 8192
	keepSpares  = 4096
	keepInSpare = 16 // rows
)

func (s *slab[T]) take() *T {
	i, j := s.used/chunkLen, s.used%chunkLen
	if i == len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, chunkLen))
	}
	s.used++
	v := &s.chunks[i][j]
	var zero T
	*v = zero
	return v
}

// giveBack takes back the last value.
func (s *slab[T]) giveBack() { s.used-- }

func (s *slab[T]) reset() {
	s.used = 0
	if len(s.chunks) > keepLen {
		clear(s.chunks[keepLen:])
		s.chunks = s.chunks[:keepLen]
	}
}
