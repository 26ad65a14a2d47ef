package viewschema

// Reduce makes the plan of a definition without a database.
func Reduce(d Definition, from int) (*Plan, error) {
	c, err := d.check()
	if err != nil {
		return nil, err
	}
	return c.reduce(from)
}
