EVENTS ?= 100000
VERSIONS ?= 14 15 16 17 18
SOAK ?= 3m
# The race detector makes tests several times slower: it is for CI and for make race. Where it costs most it tells least: crashtest
# starts its own program anew for each of hundreds of crashes.
RACE := $(if $(CI),-race)
TOOL := go tool -modfile=tools.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## compile the programs into bin/
	go build -trimpath -o bin/projector ./cmd/projector
	go build -trimpath -o bin/bank ./examples/bank/cmd/bank

.PHONY: release
release: ## compile static binaries for Linux and macOS into dist/, with their checksums
	rm -rf dist && mkdir dist
	@version=$$(git describe --tags --always --dirty) && commit=$$(git rev-parse HEAD) || exit; \
	for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		os=$${platform%/*} arch=$${platform#*/}; \
		echo "dist/projector_$${os}_$$arch $$version"; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -trimpath -ldflags "-s -w -X 'main.version=$$version, commit $$commit'" \
			-o dist/projector_$${os}_$$arch ./cmd/projector || exit; \
	done
	cd dist && { sha256sum projector_* 2>/dev/null || shasum -a 256 projector_*; } > SHA256SUMS

.PHONY: test
test: postgres ## run every test (with the race detector if CI is set)
	go test $(RACE) -timeout 20m $$(go list ./... | grep -v /crashtest$$)
	go test -timeout 20m ./internal/crashtest

.PHONY: race
race: postgres ## run every test with the race detector
	go test -race -timeout 20m ./...

.PHONY: test-matrix
test-matrix: ## run every test on PostgreSQL 14 to 18, with fewer random cases (VERSIONS="14 18" for some of them)
	@failed=; for version in $(VERSIONS); do \
		bin=$$(scripts/postgres-matrix.sh $$version) || exit; \
		echo "PostgreSQL $$version"; \
		env -u DATABASE_URL PROJECTOR_PG_BIN="$$bin" go test -short -timeout 20m ./... || failed="$$failed $$version"; \
	done; \
	if [ -n "$$failed" ]; then echo "tests fail on PostgreSQL$$failed"; exit 1; fi

.PHONY: test-citus
test-citus: ## run the bank over a cluster of Citus (DATABASE_URL=… of an empty database of the coordinator)
	@test -n "$(DATABASE_URL)" || { echo "type: make test-citus DATABASE_URL=postgres://…, an empty database of the coordinator"; exit 1; }
	env -u DATABASE_URL PROJECTOR_CITUS_URL="$(DATABASE_URL)" go test -count=1 -v -timeout 20m -run '^TestDistributed$$' ./cli

.PHONY: soak
soak: postgres ## migrate back and forth under load, with random kills (SOAK=10m for longer)
	go test -v -count=1 -timeout 0 ./internal/soak -length $(SOAK) $(if $(SEED),-seed $(SEED))

.PHONY: lint
lint: ## check format, style, import direction and unused code
	@unformatted=$$($(TOOL) gofumpt -l .); if [ -n "$$unformatted" ]; then \
		echo "not formatted, type: make fmt"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(TOOL) golangci-lint run
	@dead=$$($(TOOL) deadcode -test ./...); if [ -n "$$dead" ]; then \
		echo "neither a program nor a test reaches:"; echo "$$dead"; exit 1; fi

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt

.PHONY: bench
bench: postgres ## measure rebuilds against the least that PostgreSQL must do (LARGE=1 for 30 million events)
	go run ./internal/bench $(if $(LARGE),-large) $(BENCH)

.PHONY: bench-go
bench-go: postgres ## run the Go benchmarks of projections, in a form for benchstat
	go test -run '^$$' -bench . -benchmem -count 6 ./projections

.PHONY: demo
demo: postgres ## the whole story on a private PostgreSQL (EVENTS=3000000 for a long one)
	go run ./cmd/projector demo --events $(EVENTS)

.PHONY: cover
cover: postgres ## run every test and write coverage.html
	go test -timeout 20m -coverpkg=./... -coverprofile=coverage.out ./...
	go tool cover -html coverage.out -o coverage.html
	@go tool cover -func coverage.out | tail -1

.PHONY: postgres
postgres:
	@scripts/postgres.sh
