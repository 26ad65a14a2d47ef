package cli

import "runtime/debug"

// buildVersion is what WithVersion said, or else what the Go toolchain stamped into the binary.
func (p *program) buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && p.version == "" {
		return stamped(info)
	}
	return p.version
}

// stamped returns a binary's version and, if it was compiled in a clone, the commit.
func stamped(info *debug.BuildInfo) string {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	version, commit := info.Main.Version, settings["vcs.revision"]
	if commit != "" {
		version += ", commit " + commit
	}
	if settings["vcs.modified"] == "true" {
		version += " with changes"
	}
	return version
}
