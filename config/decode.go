package config

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/viewschema/projector/internal/nearest"
)

// findings is what is wrong with a file, each thing with its place.
type findings struct {
	name string // of the file
	list []finding
}

type finding struct {
	place
	text string
}

func (f *findings) add(at place, format string, args ...any) {
	f.list = append(f.list, finding{at, fmt.Sprintf(format, args...)})
}

// err joins the findings in the order of the file; it is nil if there are none.
func (f *findings) err() error {
	slices.SortStableFunc(f.list, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	var errs []error
	for _, found := range f.list {
		errs = append(errs, fmt.Errorf("%s:%d:%d: %s", f.name, found.line, found.column, found.text))
	}
	return errors.Join(errs...)
}

// decode reads the shape out of YAML: mappings, lists and plain values. What YAML has beyond that (anchors, tags, several
// documents) is refused. ok says that it was YAML.
func (f *findings) decode(data []byte) (shape file, ok bool) {
	start := place{1, 1}
	if !utf8.Valid(data) {
		f.add(start, "the file is not UTF-8")
		return shape, false
	}
	data = []byte(strings.TrimPrefix(string(data), "\ufeff"))
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // mapping reports them, with what else is wrong
	if err != nil {
		at, message := start, err.Error()
		if e, ok := errors.AsType[*yaml.SyntaxError](err); ok {
			at, message = placeOf(e.Token), e.Message
		}
		f.add(at, "this is not YAML: %s", message)
		return shape, false
	}
	var body ast.Node
	for _, document := range parsed.Docs {
		switch {
		case document.Body == nil:
		case body == nil:
			body = document.Body
		default:
			f.add(placeOfNode(document.Body), "a second YAML document; the file has to be one")
		}
	}
	f.value(reflect.ValueOf(&shape).Elem(), body, "", start)
	return shape, true
}

// value reads what a node has into target. path says which key it is, at where that is.
func (f *findings) value(target reflect.Value, node ast.Node, path string, at place) {
	switch target := target.Addr().Interface().(type) {
	case *text:
		if value, ok := f.scalar(node, path); ok {
			*target = text{value, placeOfNode(node)}
		}
		return
	case *number:
		if value, ok := f.scalar(node, path); ok {
			n, err := strconv.Atoi(value)
			if err != nil {
				f.add(placeOfNode(node), "%s must be a whole number, not %q", path, value)
			}
			*target = number{n, placeOfNode(node)}
		}
		return
	case *[]text:
		f.texts(target, node, path)
		return
	}
	if target.Kind() == reflect.Slice {
		f.section(target, node, path)
		return
	}
	f.fields(target, node, path, at)
}

// fields reads a mapping whose keys are the fields of a struct.
func (f *findings) fields(target reflect.Value, node ast.Node, path string, at place) {
	fields := map[string]int{}
	var known []string
	for i := range target.NumField() {
		key, _, _ := strings.Cut(target.Type().Field(i).Tag.Get("key"), ",")
		fields[key], known = i, append(known, key)
	}
	given := map[string]bool{}
	for _, pair := range f.pairs(node, path) {
		key := pair.key.value
		i, ok := fields[key]
		if !ok {
			f.add(pair.key.place, "unknown key %s%s%s", key, inside(path), suggest(key, known))
			continue
		}
		below := strings.TrimPrefix(path+"."+key, ".")
		given[key] = !isEmpty(pair.value)
		f.value(target.Field(i), pair.value, below, pair.key.place)
		if values := target.Type().Field(i).Tag.Get("values"); values != "" {
			f.oneOf(target.Field(i).Interface().(text), below, strings.Split(values, ","))
		}
	}
	for i, key := range known {
		tag := target.Type().Field(i).Tag
		if strings.HasSuffix(tag.Get("key"), ",required") && !given[key] {
			f.add(at, "%s has no %s. %s", cmp.Or(path, "the file"), key, tag.Get("doc"))
		}
	}
}

func (f *findings) oneOf(t text, path string, values []string) {
	if t.given() && !slices.Contains(values, t.value) {
		f.add(t.place, "%s %q is not known%s", path, t.value, suggest(t.value, values))
	}
}

// section reads a mapping whose keys the file chooses.
func (f *findings) section(target reflect.Value, node ast.Node, path string) {
	for _, pair := range f.pairs(node, path) {
		entry := reflect.New(target.Type().Elem()).Elem()
		entry.FieldByName("Key").Set(reflect.ValueOf(pair.key))
		f.value(entry.FieldByName("Value"), pair.value, path+"."+pair.key.value, pair.key.place)
		target.Set(reflect.Append(target, entry))
	}
}

type pair struct {
	key   text
	value ast.Node
}

// pairs returns what a mapping has, and reports keys that it has twice.
func (f *findings) pairs(node ast.Node, path string) (pairs []pair) {
	if isNull(node) {
		return nil
	}
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		f.add(placeOfNode(node), "%s has to have keys below it, but is %s", cmp.Or(path, "the file"), kind(node))
		return nil
	}
	first := map[string]place{}
	for _, v := range mapping.Values {
		key := text{v.Key.GetToken().Value, placeOf(v.Key.GetToken())}
		if before, twice := first[key.value]; twice {
			f.add(key.place, "key %s%s is in line %d already", key.value, inside(path), before.line)
			continue
		}
		first[key.value] = key.place
		pairs = append(pairs, pair{key, v.Value})
	}
	return pairs
}

func (f *findings) texts(target *[]text, node ast.Node, path string) {
	if isNull(node) {
		return
	}
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		f.add(placeOfNode(node), "%s must be a list, as in [a, b], but is %s", path, kind(node))
		return
	}
	for _, n := range list.Values {
		if value, ok := f.scalar(n, "an item of "+path); ok {
			*target = append(*target, text{value, placeOfNode(n)})
		} else if isNull(n) {
			f.add(placeOfNode(n), "an item of %s is empty", path)
		}
	}
}

// scalar returns the text of a plain value, and not ok if there is none.
func (f *findings) scalar(node ast.Node, path string) (value string, ok bool) {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return "", false
	case *ast.StringNode:
		value = n.Value
	case *ast.LiteralNode:
		value = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		value = n.GetToken().Value
	default:
		f.add(placeOfNode(node), "%s must be a single value, but is %s", path, kind(node))
		return "", false
	}
	if strings.TrimSpace(value) == "" {
		f.add(placeOfNode(node), "%s is empty; leave the key out if it is not needed", path)
		return "", false
	}
	return value, true
}

func isNull(node ast.Node) bool {
	_, null := node.(*ast.NullNode)
	return node == nil || null
}

func isEmpty(node ast.Node) bool {
	m, mapping := node.(*ast.MappingNode)
	return isNull(node) || mapping && len(m.Values) == 0
}

func kind(node ast.Node) string {
	switch node.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode, *ast.DirectiveNode:
		return "an anchor, alias, tag or directive, which are not read here; write the value itself"
	}
	return "a single value"
}

// placeOfNode returns where a node begins: a mapping at its first key, and not at the colon after that.
func placeOfNode(node ast.Node) place {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
		node = m.Values[0].Key
	}
	return placeOf(node.GetToken())
}

func placeOf(t *token.Token) place { return place{t.Position.Line, t.Position.Column} }

// inside names the mapping that a key is in, if that is not the file.
func inside(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

// suggest names the known word that is nearest to a wrong one; if none is near, all.
func suggest(wrong string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	return cmp.Or(nearest.DidYouMean("", wrong, slices.Values(known)), "; use one of: "+strings.Join(known, ", "))
}
