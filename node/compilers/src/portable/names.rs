//! Flags that cannot show a place.

/// Names after `-f`, without `no-` and `=VALUE`; sorted. They change code or how it is reported, and neither write names of files nor hash
/// them nor pack what is written. Left out on purpose are, among those that `crate::flags` knows: everything about
/// profiles, coverage, link-time optimization, modules, plug-ins, directories, prefix maps (which are read), character sets (a path
/// would be written in another one), names made of those of files (`unique-internal-linkage-names`), seeds, and
/// whatever nobody has looked at.
#[rustfmt::skip]
pub(super) const POSITION_FREE: &[&str] = &[
    "PIC", "PIE", "access-control", "aggressive-loop-optimizations", "align-functions", "align-jumps",
    "align-labels", "align-loops", "aligned-allocation", "aligned-new", "allow-store-data-races", "asm",
    "associative-math", "assume-nothrow-exception-dtor", "asynchronous-unwind-tables", "auto-inc-dec",
    "bit-tests", "blocks", "branch-count-reg", "builtin", "caller-saves", "caret-diagnostics",
    "cf-protection", "char8_t", "check-new", "code-hoisting", "combine-stack-adjustments", "common",
    "compare-elim", "concepts", "constexpr-backtrace-limit", "constexpr-cache-depth", "constexpr-depth",
    "constexpr-loop-limit", "constexpr-ops-limit", "constexpr-steps", "coroutines", "coroutines-ts",
    "cprop-registers", "crossjumping", "cse-follow-jumps", "cx-fortran-rules", "cx-limited-range",
    "cxx-exceptions", "data-sections", "dce", "declspec", "deduce-init-list", "defer-pop", "delayed-branch",
    "delete-null-pointer-checks", "denormal-fp-math", "devirtualize", "devirtualize-speculatively",
    "diagnostics-column-unit", "diagnostics-show-caret", "diagnostics-show-line-numbers",
    "diagnostics-show-location", "diagnostics-show-note-include-stack", "diagnostics-show-option",
    "diagnostics-show-template-tree", "diagnostics-urls", "digraphs", "dollars-in-identifiers", "dse",
    "early-inlining", "elide-constructors", "elide-type", "eliminate-unused-debug-symbols",
    "eliminate-unused-debug-types", "enforce-eh-specs", "error-limit", "exceptions", "excess-precision",
    "expensive-optimizations", "ext-numeric-literals", "extern-tls-init", "fast-math", "finite-loops",
    "finite-math-only", "float-store", "for-scope", "forward-propagate", "fp-contract",
    "fp-int-builtin-inexact", "freestanding", "function-cse", "function-sections", "gcse",
    "gcse-after-reload", "gcse-las", "gcse-lm", "gcse-sm", "gnu-keywords", "gnu-tm", "gnu-unique",
    "gnu89-inline", "gnuc-version", "graphite", "graphite-identity", "hardened", "hoist-adjacent-loads",
    "hosted", "ident", "if-conversion", "if-conversion2", "implement-inlines", "implicit-inline-templates",
    "implicit-templates", "indirect-inlining", "inline", "inline-functions", "inline-functions-called-once",
    "inline-hint-functions", "inline-limit", "inline-small-functions", "integrated-as", "ipa-bit-cp",
    "ipa-cp", "ipa-cp-clone", "ipa-icf", "ipa-icf-functions", "ipa-icf-variables", "ipa-modref",
    "ipa-profile", "ipa-pta", "ipa-pure-const", "ipa-ra", "ipa-reference", "ipa-reference-addressable",
    "ipa-sra", "ipa-stack-alignment", "ipa-strict-aliasing", "ipa-vrp", "ira-hoist-pressure",
    "ira-loop-pressure", "ira-share-save-slots", "ira-share-spill-slots", "isolate-erroneous-paths-attribute",
    "isolate-erroneous-paths-dereference", "ivopts", "jump-tables", "keep-inline-functions",
    "keep-static-consts", "keep-static-functions", "lax-vector-conversions", "leading-underscore",
    "lifetime-dse", "limit-function-alignment", "live-range-shrinkage", "loop-block", "loop-interchange",
    "loop-nest-optimize", "loop-parallelize-all", "loop-strip-mine", "loop-unroll-and-jam", "lra-remat",
    "macro-backtrace-limit", "math-errno", "max-errors", "max-include-depth", "merge-all-constants",
    "merge-constants", "message-length", "modulo-sched", "move-loop-invariants", "move-loop-stores",
    "ms-extensions", "new-ttp-matching", "non-call-exceptions", "nonansi-builtins", "nothrow-opt", "objc-arc",
    "objc-exceptions", "omit-frame-pointer", "openmp", "openmp-simd", "operator-names",
    "optimize-sibling-calls", "optimize-strlen", "pack-struct", "partial-inlining",
    "patchable-function-entry", "peel-loops", "peephole", "peephole2", "permissive", "pic", "pie", "plt",
    "predictive-commoning", "prefetch-loop-arrays", "printf-return-value", "protect-parens", "pthread",
    "raw-string-literals", "reciprocal-math", "ree", "reg-struct-return", "rename-registers",
    "reorder-blocks", "reorder-blocks-algorithm", "reorder-blocks-and-partition", "reorder-functions",
    "rounding-math", "rtti", "sanitize", "sanitize-recover", "sanitize-trap",
    "sanitize-undefined-trap-on-error", "sched-interblock", "sched-pressure", "sched-spec", "schedule-fusion",
    "schedule-insns", "schedule-insns2", "section-anchors", "sel-sched-pipelining", "selective-scheduling",
    "selective-scheduling2", "semantic-interposition", "short-enums", "short-wchar", "show-column",
    "show-source-location", "shrink-wrap", "shrink-wrap-separate", "signaling-nans", "signed-bitfields",
    "signed-char", "signed-zeros", "simd-cost-model", "single-precision-constant", "sized-deallocation",
    "slp-vectorize", "spell-checking", "split-ivs-in-unroller", "split-loops", "split-paths", "split-stack",
    "split-wide-types", "split-wide-types-early", "ssa-backprop", "ssa-phiopt", "stack-check",
    "stack-clash-protection", "stack-limit", "stack-protector", "stack-protector-all",
    "stack-protector-explicit", "stack-protector-strong", "stack-reuse", "stack-size-section", "stdarg-opt",
    "store-merging", "strict-aliasing", "strict-enums", "strict-flex-arrays", "strict-overflow",
    "strict-return", "strict-volatile-bitfields", "strict-vtable-pointers", "strong-eval-order",
    "sync-libcalls", "tabstop", "template-backtrace-limit", "template-depth", "thread-jumps",
    "threadsafe-statics", "tls-model", "toplevel-reorder", "tracer", "trampolines", "trapping-math", "trapv",
    "tree-bit-ccp", "tree-builtin-call-dce", "tree-ccp", "tree-ch", "tree-coalesce-vars", "tree-copy-prop",
    "tree-cselim", "tree-dce", "tree-dominator-opts", "tree-dse", "tree-forwprop", "tree-fre",
    "tree-loop-distribute-patterns", "tree-loop-distribution", "tree-loop-if-convert", "tree-loop-im",
    "tree-loop-ivcanon", "tree-loop-linear", "tree-loop-optimize", "tree-loop-vectorize",
    "tree-parallelize-loops", "tree-partial-pre", "tree-phiprop", "tree-pre", "tree-pta", "tree-reassoc",
    "tree-scev-cprop", "tree-sink", "tree-slp-vectorize", "tree-slsr", "tree-sra", "tree-switch-conversion",
    "tree-tail-merge", "tree-ter", "tree-vectorize", "tree-vrp", "trivial-auto-var-init",
    "unconstrained-commons", "unit-at-a-time", "unroll-all-loops", "unroll-loops",
    "unsafe-math-optimizations", "unsigned-bitfields", "unsigned-char", "unswitch-loops", "unwind-tables",
    "use-cxa-atexit", "use-cxa-get-exception-ptr", "use-init-array", "variable-expansion-in-unroller",
    "veclib", "vect-cost-model", "vectorize", "version-loops-for-strides", "visibility",
    "visibility-global-new-delete-hidden", "visibility-inlines-hidden",
    "visibility-inlines-hidden-static-local-var", "visibility-ms-compat", "vpt", "weak", "web", "wrapv",
    "wrapv-pointer", "writable-strings", "zero-call-used-regs", "zero-initialized-in-bss", "zvector",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_holds_nothing_that_names_or_packs() {
        assert!(POSITION_FREE.windows(2).all(|pair| pair[0] < pair[1]));
        let words = [
            "lto", "coverage", "debug-", "prefix", "-dir", "module", "pch", "record", "unique-", "seed",
            "charset", "embed", "bitcode", "xray", "plugin", "dump",
        ];
        let meant = ["eliminate-unused-debug-symbols", "eliminate-unused-debug-types"];
        for name in POSITION_FREE.iter().filter(|name| !meant.contains(name)) {
            assert!(!words.iter().any(|word| name.contains(word)), "{name}");
        }
    }
}
