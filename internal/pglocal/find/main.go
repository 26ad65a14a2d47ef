// Command find prints the folder of the PostgreSQL that tests and demo would run, or DATABASE_URL if they would use the
// server that it names. It ends with 1 if there is none, and with 2 if the environment names one that does not do.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/viewschema/projector/internal/pglocal"
)

func main() {
	if os.Getenv("DATABASE_URL") != "" {
		fmt.Println("DATABASE_URL")
		return
	}
	found, err := pglocal.Find(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if _, ok := errors.AsType[*pglocal.NotFoundError](err); ok {
			os.Exit(1)
		}
		os.Exit(2)
	}
	fmt.Println(found.Dir)
}
