package projections

import (
	"context"
	"encoding/binary"
	"io"
	"unsafe"

	"github.com/jackc/pgx/v5"
)

const chunkSize = 256 << 10 // bytes; what COPY sends at a time is less

// copyBuffer collects rows in COPY's binary format, in chunks so that growing copies nothing.
type copyBuffer struct {
	chunks [][]byte
	last   int // the chunk that grows
	rows   int64
}

// tail returns the chunk to append a row to; set puts it back.
func (b *copyBuffer) tail() []byte {
	if b.last < len(b.chunks) && len(b.chunks[b.last]) >= chunkSize {
		b.last++
	}
	if b.last == len(b.chunks) {
		b.chunks = append(b.chunks, make([]byte, 0, chunkSize+chunkSize/8))
	}
	return b.chunks[b.last]
}

func (b *copyBuffer) set(tail []byte) {
	b.chunks[b.last] = tail
	b.rows++
}

// keep encodes a row into the buffer, and returns what it is there until reset.
func (b *copyBuffer) keep(p *plan, row unsafe.Pointer) ([]byte, error) {
	buf := b.tail()
	at := len(buf)
	buf, err := p.encode(buf, row)
	if err != nil {
		return nil, err
	}
	b.set(buf)
	return buf[at:len(buf):len(buf)], nil
}

// all takes the rows apart.
func (b *copyBuffer) all() (rows [][][]byte) {
	for _, chunk := range b.chunks[:b.last+1] {
		for len(chunk) > 0 {
			n := int(binary.BigEndian.Uint16(chunk))
			row := make([][]byte, n)
			chunk = chunk[2:]
			for i := range row {
				row[i], chunk = cutOne(chunk)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (b *copyBuffer) reset() {
	for i := range b.chunks {
		b.chunks[i] = b.chunks[i][:0]
	}
	b.last, b.rows = 0, 0
}

// copyTo stores the rows and returns their number.
func (b *copyBuffer) copyTo(ctx context.Context, conn *pgx.Conn, sql string) (int64, error) {
	if b.rows == 0 {
		return 0, nil
	}
	tag, err := conn.PgConn().CopyFrom(ctx, &copyReader{rest: copyHeader, chunks: b.chunks[:b.last+1]}, sql)
	if conn.IsClosed() { // CopyFrom has not waited for its goroutine then, which may still read the chunks
		*b = copyBuffer{}
	}
	return tag.RowsAffected(), err
}

var (
	copyHeader  = []byte("PGCOPY\n\377\r\n\000" + "\000\000\000\000" + "\000\000\000\000") // no flags, no extension
	copyTrailer = []byte("\377\377")
)

type copyReader struct {
	rest   []byte
	chunks [][]byte
	ended  bool
}

func (r *copyReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		switch {
		case len(r.chunks) > 0:
			r.rest, r.chunks = r.chunks[0], r.chunks[1:]
		case !r.ended:
			r.rest, r.ended = copyTrailer, true
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
