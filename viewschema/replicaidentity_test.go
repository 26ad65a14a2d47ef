package viewschema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/viewschema/projector/internal/pgtest"
	"github.com/viewschema/projector/viewschema"
)

// A cutover is refused after which every update of the new table would fail, for a publication that it is in; and not if it would
// have failed before.
func TestCutoverKeepsTablesWritable(t *testing.T) {
	t.Parallel()
	unkeyed := keyed("create unique index accounts%SUFFIX%_id on accounts%SUFFIX% (id)")
	wider := keyed("alter table accounts%SUFFIX% add constraint accounts%SUFFIX%_pkey primary key (id, owner)")
	for name, c := range map[string]struct {
		definition viewschema.Definition
		before     string
		want       string // empty: it is not refused
		newest     bool
	}{
		"all tables": {definition: unkeyed, before: "create publication p for all tables", want: "does not have a replica identity"},
		"an identity by an index": {
			definition: unkeyed,
			before: `create unique index by_hand on view_schema.accounts (owner, id); alter table view_schema.accounts replica identity using index by_hand;
				create publication p for all tables`,
			want: "does not have a replica identity",
		},
		"no updates": {definition: unkeyed, before: "create publication p for all tables with (publish = 'insert')"},
		"not before": {definition: unkeyed, before: "create publication p for all tables; alter table view_schema.accounts replica identity nothing"},
		"columns":    {definition: sameAgain(2), before: "create publication p for table view_schema.accounts (id, balance)", newest: true},
		"columns that the identity has more of": {
			definition: wider, before: "create publication p for table view_schema.accounts (id, balance)", newest: true,
			want: "Column list used by the publication does not cover the replica identity",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, atVersion1)
			if c.newest && scalar[int](t, db, "select current_setting('server_version_num')::int") < 150000 {
				t.Skip("PostgreSQL 14 publishes whole rows")
			}
			mustExec(t, db, c.before)
			s := open(t, db, c.definition)
			online(t, s)
			_, err := s.MigrateOffline(t.Context())
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.Is(err, viewschema.ErrRefused) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %s", err, c.want)
			case c.want != "":
				mustExec(t, db, "update view_schema.accounts set balance = balance") // the live table is as it was
			}
		})
	}
}

// keyed is version 2 of the bank's first release, with other indexes of accounts.
func keyed(indexes string) viewschema.Definition {
	d := sameAgain(2)
	d.Views = files(map[string]string{
		"accounts.sql":         "create table accounts%SUFFIX% (id uuid not null, owner text not null, balance bigint not null)",
		"accounts.indexes.sql": indexes, "accounts_2.sql": "", "transactions_3.sql": "", "branch_totals.sql": "", "transfers.sql": "", "transfers.indexes.sql": "",
	})
	return d
}
