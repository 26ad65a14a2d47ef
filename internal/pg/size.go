package pg

import "fmt"

// Size writes a number of bytes as pg_size_pretty does, in powers of 1024.
func Size(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	n, unit := float64(bytes)/1024, 0
	units := []string{"KB", "MB", "GB", "TB"}
	for n >= 1024 && unit < len(units)-1 {
		n /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %s", n, units[unit])
}
