// Package config reads projector.yaml, a definition that needs no Go: where the events are, the tables with their queries,
// and what each version changes. The JSON Schema of the file, for editors, is projector.schema.json in the repository.
package config
