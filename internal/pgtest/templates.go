package pgtest

import (
	"context"
	"errors"
	"sync"
	"unsafe"

	"github.com/viewschema/projector/internal/pgcluster"
)

// templates are the databases that setup functions have filled, by the address of the function.
type templates struct {
	mu     sync.Mutex
	byFunc map[unsafe.Pointer]*template
}

type template struct {
	once  sync.Once
	err   error
	name  string
	setup Setup // held, so that no other closure gets its address
}

// create makes a database from the template of the setup function.
func (t *templates) create(ctx context.Context, c *pgcluster.Cluster, setup Setup) (string, error) {
	if setup == nil {
		return c.Create(ctx, "")
	}
	from := t.of(setup)
	from.once.Do(func() { from.name, from.err = fill(context.WithoutCancel(ctx), c, setup) })
	if from.err != nil {
		return "", from.err
	}
	return c.Create(ctx, from.name)
}

func fill(ctx context.Context, c *pgcluster.Cluster, setup Setup) (name string, err error) {
	if name, err = c.Create(ctx, ""); err == nil {
		err = c.Fill(ctx, name, setup)
	}
	return name, err
}

func (t *templates) of(setup Setup) *template {
	// A function value is a pointer to code and captured variables: equal for every use of one top-level function.
	key := *(*unsafe.Pointer)(unsafe.Pointer(&setup))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byFunc == nil {
		t.byFunc = map[unsafe.Pointer]*template{}
	}
	if t.byFunc[key] == nil {
		t.byFunc[key] = &template{setup: setup}
	}
	return t.byFunc[key]
}

// close drops the templates, and stops the server if it is ours.
func (t *templates) close(c *pgcluster.Cluster) error {
	var errs []error
	for _, from := range t.byFunc {
		if !c.Private() && from.name != "" {
			errs = append(errs, c.Drop(context.Background(), from.name))
		}
	}
	return errors.Join(append(errs, c.Close())...)
}
