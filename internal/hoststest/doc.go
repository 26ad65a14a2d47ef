// Package hoststest migrates with workers on hosts of their own: each has a network namespace with an address, a host name, and a cable
// to a switch that a test can unplug. It has tests only, which need Linux, root, and the programs ip and nsenter, and skip elsewhere.
//
// Nothing is left behind: a namespace is held by a process that ends with the test's, however that ends, and by nothing else.
package hoststest
