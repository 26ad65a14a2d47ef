package cli

import (
	"runtime/debug"
	"testing"
)

func TestStampedVersion(t *testing.T) {
	t.Parallel()
	info := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0f2a484"}
	for want, info := range map[string]*debug.BuildInfo{
		"(devel)":                             info("(devel)"),
		"v1.2.3":                              info("v1.2.3", debug.BuildSetting{Key: "GOOS", Value: "linux"}),
		"v1.2.3, commit 0f2a484":              info("v1.2.3", commit, debug.BuildSetting{Key: "vcs.modified", Value: "false"}),
		"v1.2.3, commit 0f2a484 with changes": info("v1.2.3", commit, debug.BuildSetting{Key: "vcs.modified", Value: "true"}),
	} {
		if got := stamped(info); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
