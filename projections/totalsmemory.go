package projections

import "unsafe"

// A Memory's totals are those of a batch that never ends.

func (t *totals[R]) keep() error { return nil }

func (t *totals[R]) keepStored() error {
	sql := "select " + columnList(t.model.columns) + " from " + t.relation
	return t.read(statement{sql: sql}, func(_ []byte, scan func(row unsafe.Pointer) error) error {
		row := t.slab.take()
		if err := scan(unsafe.Pointer(row)); err != nil {
			return err
		}
		t.plan.settle(unsafe.Pointer(row))
		t.rows[string(t.model.encodeKey(nil, unsafe.Pointer(row)))] = row
		return nil
	})
}

func (t *totals[R]) list() (rows []Row) {
	for row := range t.sorted {
		rows = append(rows, Row{Key: t.by.printKey(unsafe.Pointer(row)), Value: *row})
	}
	return rows
}

func (t *totals[R]) settled(value any) Row {
	row := new(R)
	*row = value.(R)
	t.plan.settle(unsafe.Pointer(row))
	return Row{Key: t.by.printKey(unsafe.Pointer(row)), Value: *row}
}
