//! Warming a tool up without showing it the project: compiles of sources that no project contains, until every worker has
//! done one and so has the toolchain.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::cli::project::Language;

/// Around 0.3 CPU seconds: enough that a tool does not think it too small to be sent.
const C: &str = "\
#include <stdio.h>
#include <string.h>
#define F(n) int f##n(const char *s, int k) { int a[64]; \\
    for (int i = 0; i < 64; i++) a[i] = s[i % 8] * k + i; \\
    for (int i = 1; i < 64; i++) a[i] ^= a[i - 1] << (k % 5); \\
    return printf(\"%d %zu\\n\", a[k & 63], strlen(s)); }
#define G(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7)
G(1) G(2) G(3) G(4) G(5) G(6) G(7) G(8)
";

const CXX: &str = "\
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>
int count(const std::vector<std::string> &words) {
    std::map<std::string, std::shared_ptr<int>> seen;
    for (const auto &word : words) seen.emplace(word, std::make_shared<int>(0)).first->second.operator*() += 1;
    for (const auto &[word, times] : seen) std::cout << word << *times;
    return static_cast<int>(seen.size());
}
";

/// Sources on the requester's disk.
pub(super) struct Warm {
    dir: PathBuf,
}

impl Warm {
    /// Writes them.
    pub(super) fn write(dir: &Path) -> Result<Warm, Failure> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("warm.c"), C)?;
        fs::write(dir.join("warm.cc"), CXX)?;
        Ok(Warm { dir: dir.to_owned() })
    }

    /// Where the compiles run.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A compile that differs from all others by its number.
    pub(super) fn compile(&self, language: Language, number: usize) -> Vec<String> {
        let (program, source) = match language {
            Language::C => ("gcc", "warm.c"),
            Language::Cxx => ("g++", "warm.cc"),
        };
        let words = [program, "-O2", &format!("-DBENCH_WARM={number}"), "-c", source, "-o"];
        words.into_iter().map(str::to_owned).chain([format!("warm-{number}.o")]).collect()
    }
}
