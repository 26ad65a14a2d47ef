package viewschema

import "testing"

func TestPlace(t *testing.T) {
	t.Parallel()
	const rest = "00000-0000-0000-0000-000000000000"
	type span struct {
		from, to string
		events   int64
		label    string
		cells    [2]int
	}
	for name, test := range map[string]struct {
		grid  Grid
		spans []span
	}{
		"nothing":   {GridNone, nil},
		"one batch": {GridPartitions, []span{{"", "", 10, "all", [2]int{0, 4095}}}},
		"whole partitions": {GridPartitions, []span{
			{"", "100" + rest, 10, "..100", [2]int{0, 0xff}},
			{"100" + rest, "fff" + rest, 10, "100..fff", [2]int{0x100, 0xffe}},
			{"fff" + rest, "", 0, "fff..", [2]int{0xfff, 0xfff}},
		}},
		"an overfull partition": {GridPartitions, []span{
			{"", "100" + rest, 10, "..100", [2]int{0, 0xff}},
			{"100" + rest, "10080000-0000-4000-8000-000000000000", 10, "100..10080000", [2]int{0x100, 0x100}},
			{"10080000-0000-4000-8000-000000000000", "101" + rest, 10, "10080000..101", [2]int{0x100, 0x100}},
			{"101" + rest, "200" + rest, 10, "101..200", [2]int{0x101, 0x1ff}},
			{"200" + rest, "", 10, "200..", [2]int{0x200, 0xfff}},
		}},
		"uuids by time": {GridSlices, []span{
			{"", "01890000-1000-7000-8000-000000000000", 10, "..01890000", [2]int{0, 1023}},
			{"01890000-1000-7000-8000-000000000000", "01890000-2000-7000-8000-000000000000", 20, "01890000..01890000", [2]int{1024, 3071}},
			{"01890000-2000-7000-8000-000000000000", "", 10, "01890000..", [2]int{3072, 4095}},
		}},
		"text": {GridSlices, []span{
			{"", "customer-1", 30, "..customer-1", [2]int{0, 3071}},
			{"customer-1", "somebody-with-a-long-name@example.org", 0, "customer-1..somebody-with-a-long…", [2]int{3072, 3174}},
			{"somebody-with-a-long-name@example.org", "", 9, "somebody-with-a-long…..", [2]int{3174, 4095}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list := []Batch{}
			ids := []bounds{}
			for _, s := range test.spans {
				list, ids = append(list, Batch{Phase: "replay", Events: s.events}), append(ids, bounds{s.from, s.to})
			}
			list, ids = append(list, Batch{Phase: "index", Label: "accounts"}), append(ids, bounds{})
			if grid := place(list, ids); grid != test.grid {
				t.Errorf("the grid is of %q, want %q", grid, test.grid)
			}
			for i, s := range test.spans {
				b := list[i]
				if [2]int{b.From, b.To} != s.cells || b.Label != s.label {
					t.Errorf("%s .. %s is %q, cells %d to %d; want %q, %v", s.from, s.to, b.Label, b.From, b.To, s.label, s.cells)
				}
				if i == 0 && b.From != 0 || i == len(test.spans)-1 && b.To != gridCells-1 || b.To < b.From {
					t.Errorf("%s .. %s has cells %d to %d", s.from, s.to, b.From, b.To)
				}
			}
			if last := list[len(list)-1]; last.Label != "accounts" || last.To != 0 {
				t.Errorf("the index has become %+v", last)
			}
		})
	}
}
