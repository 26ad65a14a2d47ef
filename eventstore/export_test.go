package eventstore

// EventsSQL is the statement that reads the selection, and its parameters.
func (r *Reader) EventsSQL(sel Selection) (string, []any) { return r.eventsSQL(sel) }

// StatementsForCitus are issued if the event table is distributed.
var StatementsForCitus = []string{clusterHolders, clusterSizes}
