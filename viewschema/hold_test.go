package viewschema

import (
	"strings"
	"testing"
	"time"
)

// How far a standby is behind is told by when the primary had written what it lacks, as far as anybody has looked: not by how long ago
// its last commit was, which on a quiet primary is hours.
func TestLagging(t *testing.T) {
	t.Parallel()
	var l lagging
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, look := range []struct {
		second           int
		primary, standby int64
		want             time.Duration
	}{
		{0, 100, 100, 0},
		{3600, 100, 100, 0},
		{3601, 200, 100, 0},
		{3603, 200, 100, 2 * time.Second},
		{3604, 300, 150, 3 * time.Second},
		{3606, 300, 200, 2 * time.Second},
		{3607, 400, 300, 0},
		{3608, 500, 600, 0},
		{3609, 600, 600, 0},
	} {
		if got := l.next(began.Add(time.Duration(look.second)*time.Second), look.primary, look.standby); got != look.want {
			t.Errorf("look %d: %s, want %s", i, got, look.want)
		}
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	const second, mb = time.Second, int64(1) << 20
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * second) }
	wal := &Throttle{MaxWALRate: mb}
	for name, c := range map[string]struct {
		looks []server
		want  []string // what each reason contains; empty: goes on
	}{
		"no throttle":      {[]server{{}}, []string{""}},
		"no limit":         {[]server{{throttle: &Throttle{}, lag: time.Hour, sessions: 100}}, []string{""}},
		"paused":           {[]server{{throttle: &Throttle{Paused: true, ChangedBy: "ada"}}, {throttle: &Throttle{}}}, []string{"paused; ada has changed the throttle last, at ", ""}},
		"lag at its limit": {[]server{{throttle: &Throttle{MaxLag: second}, lag: second}}, []string{""}},
		"lag":              {[]server{{throttle: &Throttle{MaxLag: second}, lag: 2 * second}}, []string{"a standby is 2s behind, and --max-lag is 1s"}},
		"the standby that is read": {
			[]server{{behind: time.Minute}, {behind: time.Minute + 1}, {throttle: &Throttle{MaxLag: time.Hour}, behind: 2 * time.Minute}, {}},
			[]string{"", "the standby that events are read from is 1m0s behind", "", ""},
		},
		"blind":             {[]server{{throttle: &Throttle{MaxSessions: 2}, blind: true}}, []string{"grant pg_read_all_stats"}},
		"sessions at limit": {[]server{{throttle: &Throttle{MaxSessions: 2}, sessions: 2}}, []string{""}},
		"sessions":          {[]server{{throttle: &Throttle{MaxSessions: 2}, sessions: 3}}, []string{"3 sessions are active, and --max-sessions is 2"}},
		"WAL below its limit": {
			[]server{{throttle: wal, at: at(0), wal: 500 * mb}, {throttle: wal, at: at(1), wal: 501 * mb}, {throttle: wal, at: at(3), wal: 503 * mb}},
			[]string{"", "", ""},
		},
		"WAL is waited off": {
			[]server{
				{throttle: wal, at: at(0), wal: 0},
				{throttle: wal, at: at(1), wal: 3 * mb},
				{throttle: wal, at: at(2), wal: 3 * mb},
				{throttle: wal, at: at(3), wal: 3 * mb},
			},
			[]string{"", "more WAL", "more WAL", ""},
		},
		"WAL of others is waited off for some seconds": {
			[]server{{throttle: wal, at: at(0), wal: 0}, {throttle: wal, at: at(1), wal: 1000 * mb}, {throttle: wal, at: at(11), wal: 1000 * mb}},
			[]string{"", "more WAL", ""},
		},
		"WAL whose limit was lifted is forgotten": {
			[]server{
				{throttle: wal, at: at(0), wal: 0},
				{throttle: wal, at: at(1), wal: 5 * mb},
				{throttle: &Throttle{}, at: at(2), wal: 5 * mb},
				{throttle: wal, at: at(3), wal: 500 * mb},
				{throttle: wal, at: at(4), wal: 500 * mb},
			},
			[]string{"", "more WAL", "", "", ""},
		},
	} {
		var h hold
		for i, look := range c.looks {
			got := h.next(look)
			if (got == "") != (c.want[i] == "") || !strings.Contains(got, c.want[i]) {
				t.Errorf("%s, look %d: %q, want %q", name, i+1, got, c.want[i])
			}
		}
	}
}
