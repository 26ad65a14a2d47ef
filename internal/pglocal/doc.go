// Package pglocal finds a PostgreSQL on this machine and runs a private one: a cluster of its own in a temporary
// folder, reachable through a Unix socket only unless Options.Network says otherwise, that ends with the program that started it.
//
// [Open] is the usual entry: it takes the server that DATABASE_URL names and starts a private one otherwise. [Find] and
// [Start] are its two halves for a caller that must have a private server.
package pglocal
