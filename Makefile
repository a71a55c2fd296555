# Each target installs what it needs: JavaScript packages through npm, programs from Debian (with sudo when not root, saying
# so). The work is in scripts/*.ts, which run anywhere Bun does; see CONTRIBUTING.md.

bun := node_modules/.bin/bun
SEED ?=
ROUNDS ?=

.PHONY: help demo test test-hosts check sim build bench coverage smoke clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

demo: node_modules/.installed ## five daemons on one store take turns, live, in under a minute
	@$(bun) scripts/demo.ts

test: node_modules/.installed ## all suites that need no root: unit, contract, sim, e2e
	@$(bun) scripts/test.ts unit contract sim e2e

test-hosts: node_modules/.installed ## real systemd hosts that really reboot (as root)
	@$(bun) scripts/test.ts hosts

check: node_modules/.installed ## format, lint, types, lock file
	@$(bun) scripts/check.ts

sim: node_modules/.installed ## whole fleets on simulated time: make sim SEED=7 ROUNDS=1000
	@$(bun) test/sim/run.ts --jobs $(or $(JOBS),2) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PLANT),--plant "$(PLANT)" --story)

build: node_modules/.installed ## the executable for each architecture, into dist/
	@$(bun) scripts/build.ts

smoke: node_modules/.installed ## the built executable answers to its four names
	@$(bun) scripts/smoke.ts

bench: node_modules/.installed ## measure, side by side with what people use today
	@$(bun) scripts/bench.ts

coverage: node_modules/.installed ## lines covered by the unit, contract and simulator suites, by room
	@$(bun) scripts/coverage.ts

clean: ## remove what was built (not node_modules)
	rm -rf dist .cache coverage

node_modules/.installed: package.json package-lock.json .npmrc scripts/bootstrap.sh
	@sh scripts/bootstrap.sh
