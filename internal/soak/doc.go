// Package soak migrates a bank back and forth for minutes, with its customers at work and its workers killed. It has one test
// only, which make soak runs.
package soak
