package viewschema

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

const suffixMark = "%SUFFIX%"

// maxName is how many bytes of a name PostgreSQL keeps (NAMEDATALEN - 1). It cuts longer ones off, without an error.
const maxName = 63

// sqlFile is a SQL file of a table. It goes to PostgreSQL whole; what is read of it here serves checks and names.
type sqlFile struct {
	name string
	text string
	code string // text with comments and literals blanked out, at the same offsets
}

func readFile(views fs.FS, name string) (sqlFile, error) {
	if views == nil {
		return sqlFile{}, fmt.Errorf("%s: the definition has no Views", name)
	}
	data, err := fs.ReadFile(views, name)
	if errors.Is(err, fs.ErrNotExist) {
		return sqlFile{}, fmt.Errorf("%s is missing from the SQL files: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return sqlFile{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return sqlFile{name: name, text: string(data), code: blank(string(data))}, nil
}

// render returns the SQL for tables with the suffix.
func (f sqlFile) render(suffix string) string { return strings.ReplaceAll(f.text, suffixMark, suffix) }

// word is an unquoted name, with the mark, which stands where letters may stand.
const (
	word = `[\pL_](?:[\pL\pN_$]|%SUFFIX%)*`
	name = `(?:"(?:[^"]|"")+"|` + word + `)`
)

var (
	marked          = regexp.MustCompile(`"(?:[^"]|"")*%SUFFIX%(?:[^"]|"")*"|(?:[\pL\pN_$]|%SUFFIX%)*%SUFFIX%(?:[\pL\pN_$]|%SUFFIX%)*`)
	createTable     = regexp.MustCompile(`(?i)\bcreate\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?(?:` + name + `\s*\.\s*)?(` + name + `)(\s+partition\s+of\b)?`)
	createIndex     = regexp.MustCompile(`(?i)\bcreate\s+(?:unique\s+)?index\s+(?:if\s+not\s+exists\s+)?(` + name + `)`)
	indexConstraint = regexp.MustCompile(`(?i)\bconstraint\s+(` + name + `)\s+(?:primary|unique|exclude)\b`)
	concurrently    = regexp.MustCompile(`(?i)\bindex\s+concurrently\b`)
	copyFromStdin   = regexp.MustCompile(`(?i)^copy\b[^;]*\bfrom\s+stdin\b`)
	endsTransaction = regexp.MustCompile(`(?i)^(?:begin|start\s+transaction|commit|rollback|abort|prepare\s+transaction|end(?:\s+(?:work|transaction))?)(?:\s|$)`)
	unlogged        = regexp.MustCompile(`(?i)^(?:create\s+unlogged\b|alter\s+table\b[^;]*\bset\s+unlogged\b)`)
	atomicBody      = regexp.MustCompile(`(?i)\bbegin\s+atomic\b`)
)

// check finds what would go wrong with a file that makes a table or its indexes. target is the highest version that will
// be its suffix.
func (f sqlFile) check(target int) error {
	errs := []error{f.checkStatements()}
	if !strings.Contains(f.code, suffixMark) {
		errs = append(errs, fmt.Errorf("%s: has no %s; it belongs into every name that must be unique: create table accounts%s", f.name, suffixMark, suffixMark))
	}
	for _, re := range []*regexp.Regexp{createIndex, indexConstraint} {
		for _, m := range re.FindAllStringSubmatchIndex(f.code, -1) {
			if n := f.text[m[2]:m[3]]; !strings.Contains(n, suffixMark) && !strings.EqualFold(n, "on") && !strings.EqualFold(n, "concurrently") {
				errs = append(errs, fmt.Errorf("%s: index %s has no %s in its name, which the live table's index has already", f.at(m[2]), n, suffixMark))
			}
		}
	}
	for _, m := range marked.FindAllStringIndex(f.code, -1) {
		n := strings.ReplaceAll(strings.Trim(f.text[m[0]:m[1]], `"`), suffixMark, versionSuffix(target))
		if len(n) > maxName {
			errs = append(errs, fmt.Errorf("%s: %s is %d bytes long; PostgreSQL cuts names off after %d", f.at(m[0]), n, len(n), maxName))
		}
	}
	return errors.Join(errs...)
}

// checkStatements finds statements that cannot run inside of a transaction of ours.
func (f sqlFile) checkStatements() error {
	var errs []error
	offset := 0
	for _, statement := range strings.SplitAfter(f.code, ";") {
		at := offset + len(statement) - len(strings.TrimLeft(statement, " \t\r\n"))
		offset += len(statement)
		s := strings.TrimRight(strings.TrimSpace(statement), ";")
		endsBody := strings.HasPrefix(strings.ToLower(s), "end") && atomicBody.MatchString(f.code)
		switch {
		case endsTransaction.MatchString(s) && !endsBody:
			errs = append(errs, fmt.Errorf("%s: %q: files run in a transaction of ours and must not begin or end one", f.at(at), firstLine(f.text[at:])))
		case copyFromStdin.MatchString(s):
			errs = append(errs, fmt.Errorf("%s: copy from stdin: there is no input to a file", f.at(at)))
		case unlogged.MatchString(s):
			errs = append(errs, fmt.Errorf("%s: %q: a crash of the server empties what is unlogged, and %s", f.at(at), firstLine(f.text[at:]), notAgain))
		}
	}
	if m := concurrently.FindStringIndex(f.code); m != nil {
		errs = append(errs, fmt.Errorf("%s: nothing can be built concurrently inside of a transaction: leave \"concurrently\" out", f.at(m[0])))
	}
	return errors.Join(errs...)
}

// checkCreates finds a table file that creates another table than the projector's and its partitions, or none.
func (f sqlFile) checkCreates(table, owner string, target int) error {
	var errs []error
	found := false
	for _, m := range createTable.FindAllStringSubmatchIndex(f.code, -1) {
		n := unquote(f.text[m[2]:m[3]])
		isPartition := m[4] >= 0
		switch {
		case isPartition && !strings.Contains(n, suffixMark):
			errs = append(errs, fmt.Errorf("%s: partition %s has no %s in its name, which the live table's partition has already", f.at(m[2]), n, suffixMark))
		case isPartition && isVersionOf(table, strings.ReplaceAll(n, suffixMark, ""), target):
			errs = append(errs, fmt.Errorf("%s: partition %s has a name that a version of table %s has while it is built or archived; put a letter before the number: %s_p…%s",
				f.at(m[2]), n, table, table, suffixMark))
		case isPartition: // of which table, PostgreSQL says
		case n == table+suffixMark:
			found = true
		case n == table:
			errs = append(errs, fmt.Errorf("%s: creates %s without %s, which is the live table", f.at(m[2]), n, suffixMark))
		default:
			errs = append(errs, fmt.Errorf("%s: creates table %s, but the table of projector %s is %s%s", f.at(m[2]), n, owner, table, suffixMark))
		}
	}
	if !found && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s: has no \"create table %s%s\"", f.name, table, suffixMark))
	}
	return errors.Join(errs...)
}

// isVersionOf says whether a name is that of a table in a version up to the target.
func isVersionOf(table, name string, target int) bool {
	rest, ok := strings.CutPrefix(name, table+"_")
	version, err := strconv.Atoi(rest)
	return ok && err == nil && version <= target
}

// names maps each name that the file makes with the suffix to the same name without.
func (f sqlFile) names(suffix string) map[string]string {
	names := map[string]string{}
	for _, m := range marked.FindAllString(f.code, -1) {
		m = unquote(m)
		names[strings.ReplaceAll(m, suffixMark, suffix)] = strings.ReplaceAll(m, suffixMark, "")
	}
	return names
}

// at names a byte offset of the file: file:line.
func (f sqlFile) at(offset int) string {
	return fmt.Sprintf("%s:%d", f.name, 1+strings.Count(f.text[:offset], "\n"))
}

func versionSuffix(version int) string { return "_" + strconv.Itoa(version) }

// unquote returns a name as the catalog has it: unquoted names are folded to lower case, the mark stays.
func unquote(n string) string {
	if strings.HasPrefix(n, `"`) {
		return strings.ReplaceAll(strings.Trim(n, `"`), `""`, `"`)
	}
	return strings.ReplaceAll(strings.ToLower(n), strings.ToLower(suffixMark), suffixMark)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.TrimSpace(s)
}

var literal = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?:[\pL_][\pL\pN_]*)?\$`)

// blank replaces comments and literals by spaces, so that what is left is code. Quoted names are code. Dollar-quoted bodies
// are literals that end at the tag they began with.
func blank(text string) string {
	b := []byte(text)
	wipe := func(from, to int) {
		for i := from; i < to; i++ {
			if b[i] != '\n' {
				b[i] = ' '
			}
		}
	}
	for at := 0; at < len(text); {
		m := literal.FindStringIndex(text[at:])
		if m == nil {
			break
		}
		from, to := at+m[0], at+m[1]
		switch tag := text[from:to]; tag[0] {
		case '"':
		case '$':
			if end := strings.Index(text[to:], tag); end >= 0 {
				to += end + len(tag)
			} else {
				to = len(text)
			}
			wipe(from, to)
		default:
			wipe(from, to)
		}
		at = to
	}
	return string(b)
}
