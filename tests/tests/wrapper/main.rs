//! What people expect of a compiler wrapper, line by line.
//!
//! Every case runs without barn, with it, with it again, and the same on a machine whose compiles a worker does
//! ([`barn_tests::Lanes`]); exit status, standard output, standard error and all files must be the same each time, and the node
//! must have counted what the case expects: a hit, or the reason why it is left to the compiler. What cannot
//! be the same, because two runs of the compiler differ, says so in its row.
//!
//! [`LIST`] has the whole list in order, each item with its tests. A test is a group of cases with one family of
//! compilers, and is called `section::group::family`: `cargo test -p barn-tests --test wrapper
//! invocation::response_files::gcc`.

mod dependencies;
mod diagnostics;
mod inputs;
mod invocation;
mod side_outputs;

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, thread};

use barn_tests::{Family, Group, Lanes};
use libtest_mimic::{Arguments, Trial};

/// An item, and the groups of cases that show it.
type Item = (&'static str, &'static [&'static str]);

/// Sections, their groups, and their items.
const LIST: &[(&str, &[Group], &[Item])] = &[
    (
        "invocation",
        invocation::GROUPS,
        &[
            ("prefix and masquerade symlink", &["ways_in"]),
            ("`--`", &["ways_in"]),
            ("`-x LANG`, `-x none`, unknown `-x`", &["languages"]),
            ("`.i .ii .mi .mii`", &["preprocessed_sources"]),
            ("`.S` and `.s`", &["assembler_sources"]),
            ("`-S`", &["assembly"]),
            ("`-E`", &["no_compiles"]),
            ("no `-c` (compile and link)", &["compile_and_link"]),
            ("several sources", &["several_sources"]),
            ("source from stdin", &["standard_input"]),
            ("no input", &["missing_inputs"]),
            ("input missing", &["missing_inputs"]),
            ("output directory missing", &["outputs"]),
            ("`-o /dev/null`", &["outputs"]),
            ("`-fsyntax-only`", &["syntax_only"]),
            ("output to stdout", &["outputs"]),
            ("response files, nested, quoted", &["response_files"]),
            ("`-Wp,…`, `-Wa,…`, `-Xclang`", &["arguments_for_other_programs"]),
            ("`CPATH`, `C_INCLUDE_PATH`, `GCC_COMPARE_DEBUG`, `LANG`, `SOURCE_DATE_EPOCH`", &["environment"]),
            ("`-march=native` (never across unlike machines)", &["processors"]),
            ("relative and absolute sources", &["relative_and_absolute_paths"]),
            ("paths with spaces, quotes, newlines, non-UTF-8", &["awkward_paths"]),
            ("very long argv", &["long_command_lines"]),
            (
                "compiler behind symlinks, wrappers, ccache, alternatives",
                &["compilers_behind_links", "compilers_behind_programs"],
            ),
            ("compiler upgraded in place", &["compiler_upgraded_in_place"]),
            ("100 in parallel on one output dir", &["parallel"]),
            ("autoconf probes", &["autoconf_probes"]),
        ],
    ),
    (
        "dependencies",
        dependencies::GROUPS,
        &[
            ("`-MD -MMD -MF -MT -MQ -MP`", &["flags"]),
            ("`-MF /dev/null`", &["special_places"]),
            ("`-Wp,-MD`", &["through_the_preprocessor"]),
            ("target rewriting", &["targets"]),
            ("default names", &["default_names"]),
        ],
    ),
    (
        "diagnostics",
        diagnostics::GROUPS,
        &[
            ("stderr replayed byte for byte", &["warnings", "errors"]),
            ("colour as the terminal asks, hits shared between colour states", &["colours", "colour_states"]),
            ("`-Werror`", &["warnings_as_errors"]),
            ("`--serialize-diagnostics`", &["serialized"]),
            ("`-fdiagnostics-format=json`", &["formats"]),
            ("warnings equal in number and text when compiled remotely", &["warnings"]),
        ],
    ),
    (
        "side_outputs",
        side_outputs::GROUPS,
        &[
            ("`-g`", &["debug_information", "all_of_one_compile"]),
            ("`-gsplit-dwarf` (.dwo)", &["split_debug_information", "all_of_one_compile"]),
            ("`--coverage` (.gcno)", &["coverage", "all_of_one_compile"]),
            ("`-fprofile-use/-generate`", &["profiles"]),
            ("`-fstack-usage`", &["stack_usage", "all_of_one_compile"]),
            ("`-save-temps`", &["temporary_files"]),
            ("`-Wa,-a=`", &["listings"]),
            ("`-fdump-*`", &["dumps"]),
            ("`-flto`", &["link_time_optimisation"]),
            ("`-fsanitize=*` with ignore lists", &["sanitizers"]),
            (
                "prefix maps (`-ffile-prefix-map`, `-fdebug-prefix-map`, `-fmacro-prefix-map`)",
                &["maps_of_paths"],
            ),
            ("`-fdebug-compilation-dir`", &["compilation_directory"]),
        ],
    ),
    (
        "inputs",
        inputs::GROUPS,
        &[
            ("`__DATE__ __TIME__ __TIMESTAMP__`", &["macros_of_time"]),
            ("`__FILE__`, `assert`", &["macros_of_place"]),
            ("`__COUNTER__` in `#if`", &["counter"]),
            ("`__has_include` of a header that appears or vanishes", &["probed_headers"]),
            ("a new header that shadows an old one", &["shadowing_headers"]),
            ("`#include MACRO`", &["include_of_a_macro"]),
            ("`#include_next`", &["include_next"]),
            ("`-include`, `-imacros`", &["forced_includes"]),
            ("`-idirafter -isystem -iquote -isysroot --sysroot`", &["search_directories", "system_roots"]),
            ("`.incbin` (literal, split, in a macro)", &["incbin"]),
            ("`#embed`", &["embed"]),
            ("generated headers", &["generated_headers"]),
            ("symlinked headers, `foo/../x.h`", &["links_and_dots"]),
            ("precompiled headers", &["precompiled_headers"]),
            ("C++20 modules (honest local)", &["modules"]),
            ("header changed within the same second", &["edits"]),
            ("edits in comments only", &["edits_of_comments"]),
            ("header touched but unchanged (hit)", &["touched_headers"]),
            ("Objective-C and Objective-C++", &["objective_c"]),
            ("assembler with `#include`", &["assembler_with_includes"]),
            ("what else a text may hold", &["odd_texts"]),
        ],
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let threads =
        arguments.test_threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let lanes = Arc::new(Lanes::new(threads.min(LANES_MAX)));
    let mut trials = vec![Trial::test("every_item_has_its_tests_with_both_families", the_list_is_whole)];
    for (section, groups, _) in LIST {
        for (group, family) in groups.iter().flat_map(|group| Family::ALL.map(|family| (group, family))) {
            let lanes = lanes.clone();
            let name = format!("{section}::{}::{}", group.name, family.name());
            trials.push(Trial::test(name, move || Ok(lanes.with(|lane| group.check(family, lane))?)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    lanes.close();
    conclusion.exit_code()
}

/// Each lane is a directory, two nodes and a share of one worker; more do not make two cores quicker.
const LANES_MAX: usize = 2;

fn the_list_is_whole() -> Result<(), libtest_mimic::Failed> {
    for (section, groups, items) in LIST {
        let named: BTreeSet<&str> = items.iter().flat_map(|(_, groups)| groups.iter().copied()).collect();
        let there: BTreeSet<&str> = groups.iter().map(|group| group.name).collect();
        assert_eq!(named, there, "{section}: groups of the list, and groups that there are");
        assert_eq!(there.len(), groups.len(), "{section}: two groups have one name");
        for group in *groups {
            let families = Family::ALL.map(|family| group.is_for(family));
            assert_eq!(families, [true; 2], "{section}::{} leaves out a family", group.name);
        }
    }
    Ok(())
}
