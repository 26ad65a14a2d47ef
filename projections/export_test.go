package projections

// CopyLine finds the number of a line in where a COPY failed, as PostgreSQL prints it.
var CopyLine = copyLine
