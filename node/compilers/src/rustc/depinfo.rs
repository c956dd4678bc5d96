//! rustc's dependency list (`--emit=dep-info`).
//!
//! A rule for each output, then an empty rule for each file that was read, then the variables that were asked for. In paths
//! only blanks are escaped; in variables line ends and backslashes.

/// What one run of rustc read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DepInfo {
    /// The files, relative to the working directory unless absolute.
    pub files: Vec<Vec<u8>>,
    /// The variables asked for at compile time, and their values if they were set.
    pub env: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Reads a dependency list; `None` if it is none, or holds what only newer compilers write.
pub fn parse_dep_info(text: &[u8]) -> Option<DepInfo> {
    const VARIABLE: &[u8] = b"# env-dep:";
    let mut found = DepInfo::default();
    let mut named = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        if let Some(variable) = line.strip_prefix(VARIABLE) {
            found.env.push(split_variable(variable)?);
        } else if line.starts_with(b"#") {
            return None;
        } else if let Some(path) = line.strip_suffix(b":") {
            found.files.push(unescape_path(path));
        } else {
            // The rules of all outputs list the same files.
            named.push(line);
        }
    }
    let is_listed = |line: &&[u8]| line.windows(2).any(|pair| pair == b": ");
    (!found.files.is_empty() && named.iter().all(is_listed)).then_some(found)
}

fn split_variable(text: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    // The name cannot hold `=`.
    match text.iter().position(|&byte| byte == b'=') {
        Some(at) => Some((unescape_variable(&text[..at])?, Some(unescape_variable(&text[at + 1..])?))),
        None => Some((unescape_variable(text)?, None)),
    }
}

fn unescape_path(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\' && after.first() == Some(&b' ') {
            rest = after;
            continue;
        }
        plain.push(byte);
        rest = after;
    }
    plain
}

fn unescape_variable(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_as_rustc_writes_it() {
        let text =
            b"out/x-abc.d: x.rs a\\ b.txt\n\nout/libx-abc.rlib: x.rs a\\ b.txt\n\nx.rs:\na\\ b.txt:\n\n\
            # env-dep:FOO BAR=x\\\\y\\nz=1\n# env-dep:NONE\n";
        let found = parse_dep_info(text).unwrap();
        assert_eq!(found.files, [b"x.rs".to_vec(), b"a b.txt".to_vec()]);
        let foo = (b"FOO BAR".to_vec(), Some(b"x\\y\nz=1".to_vec()));
        assert_eq!(found.env, [foo, (b"NONE".to_vec(), None)]);
    }

    #[test]
    fn what_is_not_known_is_none() {
        for text in [
            "",
            "x.d: x.rs\n",
            "x.d: x.rs\n\nx.rs:\n# checksum:x\n",
            "x.rs:\nnonsense\n",
            "x:\n# env-dep:A=\\q",
        ] {
            assert_eq!(parse_dep_info(text.as_bytes()), None, "{text}");
        }
    }
}
