//! Round trips, and the hostile archives that must be refused.

use barn_protocol::{
    path::TreePath,
    tree::{Entry, Tree},
};

use super::*;

/// Blobs by digest, standing in for the store's `put` and `open` with real hashing.
#[derive(Default)]
struct Memory(BTreeMap<Digest, Vec<u8>>);

impl Memory {
    fn put(&mut self, input: &mut dyn Read) -> io::Result<Digest> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let digest = Digest::of(&bytes);
        self.0.insert(digest, bytes);
        Ok(digest)
    }

    fn open(&self, digest: Digest) -> io::Result<&[u8]> {
        self.0.get(&digest).map(Vec::as_slice).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn sample() -> (Toolchain, Memory) {
    let mut memory = Memory::default();
    let mut tree = Tree::new();
    let files = [
        ("/usr/bin/gcc-12", &b"driver"[..], true),
        ("/usr/lib/cc1", b"pass", true),
        ("/usr/lib/copy", b"pass", true),
    ];
    for (path, contents, executable) in files {
        let digest = memory.put(&mut &*contents).unwrap();
        let entry = Entry::File { digest, size: contents.len() as u64, executable };
        tree.insert(TreePath::new(path).unwrap(), entry).unwrap();
    }
    let link = Entry::Symlink { target: b"gcc-12".to_vec() };
    tree.insert(TreePath::new(*b"/usr/bin/gcc").unwrap(), link).unwrap();
    let search_path = vec![TreePath::new(*b"/usr/bin").unwrap()];
    (Toolchain { name: "gcc 12".into(), machine: "x86_64".into(), tree, search_path }, memory)
}

fn exported() -> Vec<u8> {
    let (toolchain, memory) = sample();
    let mut archive = Vec::new();
    export(&toolchain, |digest| memory.open(digest), &mut archive).unwrap();
    archive
}

/// A tar of raw entries: name, kind, announced size, contents.
type Raw<'a> = (&'a str, tar::EntryType, u64, &'a [u8]);

fn tar_of(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, size, contents) in entries {
        let mut header = tar::Header::new_gnu();
        // Written into the field itself: `set_path` would refuse what must be tested.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(*size);
        header.set_mode(0o4755);
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.as_old_mut().linkname[..10].copy_from_slice(b"/etc/hosts");
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(contents);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn pack(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 3).unwrap()
}

fn manifest() -> Vec<u8> {
    postcard::to_stdvec(&sample().0).unwrap()
}

fn blobs() -> Vec<(String, Vec<u8>)> {
    sample().1.0.into_iter().map(|(digest, bytes)| (blob_name(&digest), bytes)).collect()
}

/// Imports and expects a refusal, with nothing of a wrong digest stored.
#[track_caller]
fn refused(archive: &[u8]) -> ImportError {
    let mut memory = Memory::default();
    import(archive, |input| memory.put(input)).unwrap_err()
}

#[track_caller]
fn refused_entries(entries: &[Raw<'_>]) -> ImportError {
    refused(&pack(&tar_of(entries)))
}

const REGULAR: tar::EntryType = tar::EntryType::Regular;

#[test]
fn what_is_exported_can_be_imported() {
    let (toolchain, memory) = sample();
    let mut copy = Memory::default();
    assert_eq!(import(exported().as_slice(), |input| copy.put(input)).unwrap(), toolchain);
    assert_eq!(copy.0, memory.0);
    assert_eq!(exported(), exported(), "exports are deterministic");
}

#[test]
fn gnu_tar_can_list_an_export() {
    let mut tar = Vec::new();
    zstd::Decoder::new(exported().as_slice()).unwrap().read_to_end(&mut tar).unwrap();
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("t.tar"), tar).unwrap();
    let listing =
        std::process::Command::new("tar").arg("-tf").arg(room.path().join("t.tar")).output().unwrap();
    let names: Vec<String> = blobs().into_iter().map(|(name, _)| name).collect();
    let expect = format!("{MANIFEST_NAME}\n{}\n", names.join("\n"));
    assert_eq!(String::from_utf8(listing.stdout).unwrap(), expect);
}

#[test]
fn a_changed_file_is_not_exported() {
    let (toolchain, memory) = sample();
    for other in [&b"driveR"[..], b"driver and more", b"d"] {
        let open = |digest| Ok(if digest == Digest::of(b"driver") { other } else { memory.open(digest)? });
        let error = export(&toolchain, open, io::sink()).unwrap_err();
        assert!(matches!(error, ExportError::Changed(_)), "{error}");
    }
    let error =
        export(&toolchain, |_| Err::<&[u8], _>(io::ErrorKind::NotFound.into()), io::sink()).unwrap_err();
    assert!(matches!(error, ExportError::Blob(..)));
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    let whole = exported();
    for end in 0..whole.len() {
        let outcome = import(&whole[..end], |input| Memory::default().put(input));
        assert!(outcome.is_err(), "cut at {end} of {}", whole.len());
        let mut flipped = whole.clone();
        flipped[end] ^= 0x10;
        if let Ok(toolchain) = import(flipped.as_slice(), |input| Memory::default().put(input)) {
            assert_eq!(toolchain, sample().0, "byte {end}");
        }
    }
}

#[test]
fn names_other_than_the_announced_ones_are_refused() {
    let manifest = manifest();
    let start: Raw<'_> = (MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest);
    for name in
        ["/etc/passwd", "../../x", "blobs/../../x", "usr/bin/gcc", "blobs/", "", "BLOBS/x", "./blobs/x"]
    {
        let error = refused_entries(&[start, (name, REGULAR, 6, b"driver")]);
        assert!(matches!(error, ImportError::Unannounced(_)), "{name}: {error}");
    }
}

#[test]
fn only_regular_files_are_taken() {
    use tar::EntryType as T;
    let manifest = manifest();
    let (name, contents) = &blobs()[0];
    let start: Raw<'_> = (MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest);
    let kinds = [
        T::Link,
        T::Symlink,
        T::Char,
        T::Block,
        T::Directory,
        T::Fifo,
        T::Continuous,
        T::GNULongName,
        T::GNULongLink,
        T::GNUSparse,
        T::XGlobalHeader,
        T::XHeader,
        T::new(b'Z'),
    ];
    for kind in kinds {
        let error = refused_entries(&[start, (name, kind, contents.len() as u64, contents)]);
        assert!(matches!(error, ImportError::Kind(_)), "{kind:?}: {error}");
        let error = refused_entries(&[(MANIFEST_NAME, kind, manifest.len() as u64, &manifest)]);
        assert!(matches!(error, ImportError::NoManifest), "{kind:?}: {error}");
    }
}

#[test]
fn extensions_that_rename_or_resize_are_refused_and_not_read() {
    // A long name of 8 GiB would be held in memory by a reader that acts on it.
    let error = refused_entries(&[("././@LongLink", tar::EntryType::GNULongName, 8 << 30, b"x")]);
    assert!(matches!(error, ImportError::NoManifest), "{error}");
    let manifest = manifest();
    let start: Raw<'_> = (MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest);
    let error =
        refused_entries(&[start, ("PaxHeaders/x", tar::EntryType::XHeader, 30, b"30 size=99999999999\n")]);
    assert!(matches!(error, ImportError::Unannounced(_)), "{error}");
}

#[test]
fn duplicates_extras_and_gaps_are_refused() {
    let manifest = manifest();
    let blobs = blobs();
    let raw: Vec<Raw<'_>> = blobs
        .iter()
        .map(|(name, bytes)| (name.as_str(), REGULAR, bytes.len() as u64, bytes.as_slice()))
        .collect();
    let start: Raw<'_> = (MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest);
    let good = [start, raw[0], raw[1]];
    assert!(import(pack(&tar_of(&good)).as_slice(), |input| Memory::default().put(input)).is_ok());
    assert!(matches!(refused_entries(&[start, raw[0], raw[0]]), ImportError::Unannounced(_)));
    assert!(matches!(refused_entries(&[start, raw[1], raw[0]]), ImportError::Unannounced(_)));
    assert!(matches!(refused_entries(&[start, raw[0], raw[1], raw[1]]), ImportError::Unannounced(_)));
    assert!(matches!(refused_entries(&[start, start]), ImportError::Unannounced(_)));
    assert!(matches!(refused_entries(&[start, raw[0]]), ImportError::Missing(_)));
    assert!(matches!(refused_entries(&[raw[0], start]), ImportError::NoManifest));
    assert!(matches!(refused_entries(&[]), ImportError::NoManifest));
}

#[test]
fn nothing_follows_the_end() {
    let mut tar = Vec::new();
    zstd::Decoder::new(exported().as_slice()).unwrap().read_to_end(&mut tar).unwrap();
    let with = |tail: &[u8]| pack(&[tar.as_slice(), tail].concat());
    assert!(import(with(&[0; 9000]).as_slice(), |input| Memory::default().put(input)).is_ok());
    assert!(matches!(refused(&with(&[1])), ImportError::Trailing));
    assert!(matches!(refused(&with(&vec![0; 80 << 10])), ImportError::Trailing));
}

#[test]
fn contents_are_those_of_the_manifest() {
    let manifest = manifest();
    let start: Raw<'_> = (MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest);
    let (name, contents) = &blobs()[0];
    let size = contents.len() as u64;
    let other = vec![b'#'; contents.len()];
    assert!(matches!(refused_entries(&[start, (name, REGULAR, size, &other)]), ImportError::Content(_)));
    assert!(matches!(
        refused_entries(&[start, (name, REGULAR, size + 1, &[contents.as_slice(), b"x"].concat())]),
        ImportError::Size { .. }
    ));
    assert!(matches!(refused_entries(&[start, (name, REGULAR, 1 << 62, b"x")]), ImportError::Size { .. }));
}

#[test]
fn a_store_that_lies_or_does_not_read_is_noticed() {
    let error = import(exported().as_slice(), |_| Ok(Digest::of(b"lie"))).unwrap_err();
    assert!(matches!(error, ImportError::Content(_)), "{error}");
    let mut digests =
        blobs().into_iter().map(|(_, bytes)| Digest::of(&bytes)).collect::<Vec<_>>().into_iter();
    let error = import(exported().as_slice(), |_| Ok(digests.next().unwrap())).unwrap_err();
    assert!(matches!(error, ImportError::Content(_)), "{error}");
    let full = |_: &mut dyn Read| Err(io::Error::from(io::ErrorKind::StorageFull));
    assert!(matches!(import(exported().as_slice(), full).unwrap_err(), ImportError::Store(..)));
}

/// Encodes a manifest by hand, so that it can hold what the types refuse: path, then an entry.
fn forged_manifest(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let text = |bytes: &[u8]| postcard::to_stdvec(&bytes.to_vec()).unwrap();
    let mut out = [text(b"gcc"), text(b"x86_64")].concat();
    out.extend(postcard::to_stdvec(&(entries.len() as u64)).unwrap());
    for (path, entry) in entries {
        out.extend(text(path));
        out.extend_from_slice(entry);
    }
    out.push(0);
    out
}

#[test]
fn hostile_manifests_are_refused() {
    let program =
        postcard::to_stdvec(&Entry::File { digest: Digest::of(b""), size: 0, executable: true }).unwrap();
    let link = postcard::to_stdvec(&Entry::Symlink { target: b"/oldroot/etc".to_vec() }).unwrap();
    let huge = postcard::to_stdvec(&Entry::File { digest: Digest::of(b""), size: 1 << 40, executable: true })
        .unwrap();
    let import_of = |entries: &[(&[u8], &[u8])]| {
        let manifest = forged_manifest(entries);
        let blob = blob_name(&Digest::of(b""));
        let raw =
            [(MANIFEST_NAME, REGULAR, manifest.len() as u64, manifest.as_slice()), (&blob, REGULAR, 0, b"")];
        import(pack(&tar_of(&raw)).as_slice(), |input| Memory::default().put(input))
    };
    assert!(import_of(&[(b"/usr/cc", &program)]).is_ok(), "the forgery is well-formed");
    let deep = b"/x".repeat(65);
    let long = [b"/".as_slice(), &[b'x'; 4097]].concat();
    for path in [
        b"usr/cc".as_slice(),
        b"/usr/../etc/cc",
        b"/usr//cc",
        b"/usr/./cc",
        b"/usr/cc/",
        b"",
        b"/a\0b",
        &deep,
        &long,
    ] {
        let error = import_of(&[(path, &program)]).unwrap_err();
        assert!(matches!(error, ImportError::Manifest), "{}: {error}", path.escape_ascii());
    }
    let below_link = import_of(&[(b"/usr", &link), (b"/usr/cc", &program)]).unwrap_err();
    assert!(matches!(below_link, ImportError::Manifest), "{below_link}");
    assert!(matches!(import_of(&[(b"/usr/cc", &huge)]).unwrap_err(), ImportError::Manifest));
    assert!(matches!(import_of(&[(b"/oldroot/cc", &program)]).unwrap_err(), ImportError::Policy(_)));
    assert!(
        matches!(import_of(&[(b"/usr/cc", &[7])]).unwrap_err(), ImportError::Manifest),
        "unknown kind of entry"
    );
}

#[test]
fn a_million_entries_are_refused() {
    let directory = postcard::to_stdvec(&Entry::Directory).unwrap();
    let paths: Vec<Vec<u8>> = (0..100_000).map(|n| format!("/{n}").into_bytes()).collect();
    let entries: Vec<_> = paths.iter().map(|path| (path.as_slice(), directory.as_slice())).collect();
    let manifest = forged_manifest(&entries);
    let error = refused_entries(&[(MANIFEST_NAME, REGULAR, manifest.len() as u64, &manifest)]);
    assert!(matches!(error, ImportError::Manifest), "{error}");
    let size = MANIFEST_BYTES_MAX + 1;
    let error = refused_entries(&[(MANIFEST_NAME, REGULAR, size, &vec![0; size as usize])]);
    assert!(matches!(error, ImportError::Manifest), "{error}");
}

/// An archive whose one blob is `size` zero bytes, and a true manifest for it.
fn zeroes(size: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut io::repeat(0).take(size), &mut hasher).unwrap();
    let digest = Digest::from(hasher.finalize());
    let mut tree = Tree::new();
    tree.insert(TreePath::new(*b"/usr/cc").unwrap(), Entry::File { digest, size, executable: true }).unwrap();
    let toolchain =
        Toolchain { name: String::new(), machine: "x86_64".into(), tree, search_path: Vec::new() };
    let mut archive = Vec::new();
    export(&toolchain, |_| Ok(io::repeat(0).take(size)), &mut archive).unwrap();
    archive
}

#[test]
fn a_bomb_is_stopped_early() {
    let archive = zeroes(256 << 20);
    assert!(archive.len() < 64 << 10, "{} bytes", archive.len());
    let mut unpacked = 0;
    let outcome = import(archive.as_slice(), |input| {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = input.read(&mut buffer)?;
            hasher.update(&buffer[..count]);
            unpacked += count;
            if count == 0 {
                return Ok(hasher.finalize().into());
            }
        }
    });
    assert!(matches!(outcome, Err(ImportError::Bomb)), "{outcome:?}");
    assert!(unpacked < 32 << 20, "{unpacked} bytes were unpacked");
}

#[test]
fn a_huge_window_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&tar_of(&[("x", REGULAR, 0, b"")])).unwrap();
    let error = refused(&encoder.finish().unwrap());
    assert!(matches!(error, ImportError::Read(_)), "{error}");
}

#[test]
fn other_files_are_no_archives() {
    for bytes in [&b""[..], b"PK\x03\x04", &[0; 2048], b"\x28\xb5\x2f\xfd"] {
        let error = refused(bytes);
        assert!(matches!(error, ImportError::Read(_) | ImportError::NoManifest), "{error}");
    }
    assert!(matches!(refused(&pack(&[0; 4096])), ImportError::NoManifest));
}
