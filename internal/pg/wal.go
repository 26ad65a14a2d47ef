package pg

// Positions in the write-ahead log, in SQL: bytes since its beginning, as bigint.
const (
	// FlushedWAL is how far a server has its own WAL on disk; what is not, is not on its way to a standby. 0 on a standby.
	FlushedWAL = "case when pg_is_in_recovery() then 0 else (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8 end"
	// ReplayedWAL is how far a standby has replayed its primary's; 0 on a primary that never was one.
	ReplayedWAL = "(coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0'::pg_lsn)::int8"
)
