//! Results that other checkouts of the project can have.
//!
//! Beside its exact record a result gets a portable one, if nothing in it shows where it was made; `docs/portable.md` has the
//! argument, this module the order of the steps: [`Portable::of`] judges a call before it runs, [`Prepared::new`] its inputs, and
//! [`Requester::remember_portable`] its outputs. Whatever cannot be judged has an exact record only.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{Seek as _, Write as _},
    os::unix::ffi::OsStringExt as _,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use barn_compilers::{
    Language, SideKind,
    portable::{
        Spelled, depfile, judge, prefix_maps, traces,
        words::{Origin, Unit, Words, check_preprocessed, preprocess_argv},
    },
};
use barn_protocol::{
    ActionKey, ActionRecord, ActionResult, Digest, Places, TreePath,
    action::{Blob, OutputFile},
    identity::SignedBytes,
};

use tokio::{io::AsyncReadExt as _, process::Command, runtime::Handle};

use super::{Call, Prepared, Requester, inputs::Inputs, project::Project};

/// Largest output that is searched, in bytes; larger objects are rare and take longer to search than a hit may.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Largest preprocessed text, in bytes, and longest run that prints one; the largest units take some ten seconds on a loaded machine.
const PREPROCESSED_BYTES_MAX: u64 = 256 << 20;
const PREPROCESS_MAX: Duration = Duration::from_secs(60);
/// Texts of which the words are remembered; some 100 bytes each.
const TEXTS_MAX: usize = 32_768;

/// A call as every checkout makes it.
#[derive(Debug)]
pub(super) struct Portable {
    places: Places,
    spelled: Spelled,
    /// The action's argv with marks.
    argv: Vec<Vec<u8>>,
    /// Which output is the dependency file.
    depfile: Option<usize>,
}

/// The words of texts by the texts' digests. Shared by all requests.
#[derive(Debug, Default)]
pub struct Wording(Mutex<HashMap<Digest, Words>>);

impl Portable {
    /// What is the same for `call` in every checkout of its project.
    ///
    /// # Errors
    /// Why its result may show where it was made.
    pub(super) fn of(call: &Call, project: &Project) -> Result<Self, String> {
        let places = places(call, project)?;
        let own = [call.stem.program.as_bytes(), call.stem.argv.first().map_or(&b""[..], Vec::as_slice)];
        let named = own.into_iter().chain(call.stem.env.values().map(Vec::as_slice));
        if named.into_iter().any(|bytes| traces::holds_place(bytes, &places)) {
            return Err("the compiler or its environment lies in the project".to_owned());
        }
        let spelled = judge(&call.compile, &places).map_err(|why| why.to_string())?;
        let argv = [&call.stem.argv[..1], &spelled.argv].concat();
        let before = usize::from(call.compile.output.is_some());
        let is_depfile = |side: &barn_compilers::SideOutput| side.kind == SideKind::Depfile;
        let depfile = call.compile.side_outputs.iter().position(is_depfile).map(|side| before + side);
        Ok(Self { places, spelled, argv, depfile })
    }

    /// The places of this checkout.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// The name of the portable manifests of the call, whose source has this digest.
    pub(super) fn manifest_key(&self, call: &Call, source: &Digest) -> Digest {
        Places::manifest_key(&self.places.key(&call.stem, &self.argv), source)
    }

    /// The key of the call's action with these inputs; why it has none, if so.
    pub(super) fn key(&self, action: &barn_protocol::Action, call: &Call, inputs: &Inputs) -> Result<ActionKey, String> {
        if !inputs.complete {
            return Err("not all that it looked for is known".to_owned());
        }
        if inputs.not_scanned.is_some() && call.compile.language != Language::Assembler {
            return Err("the ways to its inputs are not known".to_owned());
        }
        let obstacle = inputs.routes.obstacle(&self.places, action.cwd.as_bytes(), &inputs.tree);
        if let Some(why) = obstacle {
            return Err(why);
        }
        let is_link = |(path, entry): (&TreePath, &barn_protocol::Entry)| {
            matches!(entry, barn_protocol::Entry::Symlink { .. }) && self.places.place_of(path.as_bytes()).is_some()
        };
        if self.spelled.system_directory && inputs.tree.iter().any(is_link) {
            return Err("links beside system headers of the project".to_owned());
        }
        Ok(self.places.key(action, &self.argv))
    }

    /// Whether the output of this number is the dependency file.
    pub(super) fn is_depfile(&self, output: usize) -> bool {
        self.depfile == Some(output)
    }

    /// The dependency file of this checkout by its neutral form; `None` if that is damaged.
    pub(super) fn depfile(&self, neutral: &[u8]) -> Option<(u64, fs::File)> {
        let bytes = depfile::composed(neutral, &self.places)?;
        let mut file = tempfile::tempfile().ok()?;
        file.write_all(&bytes).and_then(|()| file.rewind()).ok()?;
        Some((bytes.len() as u64, file))
    }
}

/// The flags that a project asks for, so that its objects are the same in all checkouts.
pub(super) fn maps(call: &Call, project: &Project) -> Vec<Vec<u8>> {
    match places(call, project) {
        Ok(places) if project.portable_paths => prefix_maps(call.compile.language, &places),
        _ => Vec::new(),
    }
}

fn places(call: &Call, project: &Project) -> Result<Places, String> {
    let root = project.root(&call.cwd, &call.source_directory());
    let shown = root.display().to_string();
    let root = TreePath::new(root.into_os_string().into_encoded_bytes()).map_err(|error| format!("{shown}: {error}"))?;
    Places::new(root, &call.stem.cwd).ok_or_else(|| format!("the name of {shown} or of the working directory is not plain"))
}

impl Requester {
    /// Keeps a result of this node's making, whose exact record is kept, for other checkouts too, and lets the office have it.
    /// Returns what is to be told of that. Where the compiler has to be asked whether the result shows where it was made, that is
    /// done later: nobody waits for it but who looks up the same.
    pub(super) fn remember_portable(
        self: &Arc<Self>,
        prepared: &Arc<Prepared>,
        result: &ActionResult,
        record: &SignedBytes,
    ) -> String {
        let why = match self.check_words(prepared) {
            Ok(()) => match self.keep_portable(prepared, result) {
                Ok(signed) => {
                    self.publish(prepared, record, Some(signed));
                    return String::new();
                }
                Err(why) => why,
            },
            Err(Unclear::ToBeAsked(why)) => {
                self.ask_later(prepared.clone(), result.clone(), record.clone());
                return format!("; whether other checkouts can have it is still to be seen: {why}");
            }
            Err(Unclear::Never(why)) => why,
        };
        self.publish(prepared, record, None);
        format!(", for this checkout alone: {why}")
    }

    fn ask_later(self: &Arc<Self>, prepared: Arc<Prepared>, result: ActionResult, record: SignedBytes) {
        let this = self.clone();
        tokio::spawn(async move {
            let Some(place) = this.keeper.reserve(prepared.names.all()).await else { return };
            let work = move || {
                let kept = this.check_preprocessed(&prepared).and_then(|()| this.keep_portable(&prepared, &result));
                if let Err(why) = &kept {
                    tracing::debug!(source = %prepared.call.source_path().display(), why, "not for other checkouts");
                }
                this.publish(&prepared, &record, kept.ok());
            };
            place.fill(work).begin();
        });
    }

    fn keep_portable(&self, prepared: &Prepared, result: &ActionResult) -> Result<SignedBytes, String> {
        let portable = prepared.call.portable()?;
        let key = prepared.portable_key.clone()?;
        let result = self.without_places(portable, result)?;
        let record = ActionRecord {
            key,
            result,
            producer: self.identity.id(),
            sandboxed: false,
            epoch: self.roster.epoch(),
        };
        let signed = record.sign(&self.identity);
        self.keep(prepared, &key, &record.result, &signed)?;
        Ok(signed)
    }

    /// Keeps the include manifest for other checkouts.
    pub(super) fn remember_portable_manifest(&self, prepared: &Prepared, key: ActionKey) {
        let (Ok(portable), Some(name)) = (prepared.call.portable(), prepared.names.portable) else { return };
        if !prepared.inputs.complete {
            return;
        }
        let manifest = prepared.inputs.manifest(key).encode_marked(portable.places());
        if let Err(error) = self.store.put_manifest(&name, &prepared.action.toolchain, &manifest) {
            let source = &error as &dyn std::error::Error;
            tracing::warn!(error = source, "a portable include manifest was not stored");
        }
    }

    /// The result as other checkouts get it, its blobs in the store.
    fn without_places(&self, portable: &Portable, result: &ActionResult) -> Result<ActionResult, String> {
        for blob in [result.stdout, result.stderr] {
            self.search(&blob, portable)?;
        }
        let mut outputs = Vec::with_capacity(result.outputs.len());
        for file in &result.outputs {
            let blob = Blob { digest: file.digest, size: file.size };
            if !portable.is_depfile(file.output as usize) {
                self.search(&blob, portable)?;
                outputs.push(file.clone());
                continue;
            }
            let neutral = depfile::neutral(&self.bytes(&blob)?, &portable.places);
            let neutral = neutral.ok_or("its dependency file cannot be made anew for other checkouts")?;
            let Blob { digest, size } = self.store.put_bytes(&neutral).map_err(|error| error.to_string())?;
            outputs.push(OutputFile { output: file.output, digest, size });
        }
        Ok(ActionResult { outputs, ..result.clone() })
    }

    fn search(&self, blob: &Blob, portable: &Portable) -> Result<(), String> {
        traces::search(&self.bytes(blob)?, &portable.places).map_err(|why| why.to_string())
    }

    fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, String> {
        match blob.size {
            0 => Ok(Vec::new()),
            1..=OUTPUT_BYTES_MAX => {
                self.store.read_blob(&blob.digest).ok_or_else(|| "an output is no longer in the store".to_owned())
            }
            _ => Err("an output is too large to be searched".to_owned()),
        }
    }

    /// Looks whether the texts of a unit can name the file they are in, if that would matter.
    fn check_words(&self, prepared: &Prepared) -> Result<(), Unclear> {
        let portable = prepared.call.portable().map_err(Unclear::Never)?;
        if let Err(why) = &prepared.portable_key {
            return Err(Unclear::Never(why.clone()));
        }
        if !portable.spelled.names_files {
            return Ok(());
        }
        let mut unit = Unit::default();
        let argv = portable.argv.join(b"\n".as_slice());
        unit.add(&Words::of(&argv), Origin::Anywhere)
            .map_err(|why| Unclear::ToBeAsked(format!("the command line: {why}")))?;
        for (path, known) in &prepared.inputs.witnesses {
            let bytes = path.as_os_str().as_encoded_bytes();
            let is_inside = portable.places.place_of(bytes).is_some();
            let origin = if is_inside { Origin::Anywhere } else { Origin::outside(bytes) };
            let words = self.wording.words(&known.blob.digest, || fs::read(path).ok());
            let words = words.ok_or_else(|| Unclear::Never(format!("{} has changed", path.display())))?;
            unit.add(&words, origin)
                .map_err(|why| Unclear::ToBeAsked(format!("{}: {why}", path.display())))?;
        }
        unit.finish().map_err(|why| Unclear::ToBeAsked(why.to_string()))
    }

    /// Looks whether the unit uses the path of a file, by asking its compiler. Blocks; must be called within a tokio runtime.
    fn check_preprocessed(&self, prepared: &Prepared) -> Result<(), String> {
        let call = &prepared.call;
        let portable = call.portable()?;
        if !call.may_be_kept() {
            return Err("an archive stands in for its compiler".to_owned());
        }
        let argv = preprocess_argv(&call.compile).ok_or("its source is not preprocessed")?;
        let text = Handle::current().block_on(preprocessed(call, argv))?;
        check_preprocessed(&text, &portable.places).map_err(|why| why.to_string())
    }
}

/// Why the words of a unit do not settle whether it shows where it is.
enum Unclear {
    /// It is not shared anyway.
    Never(String),
    /// Its texts have the words, which says nothing of their use.
    ToBeAsked(String),
}

/// What the compiler's preprocessor prints.
async fn preprocessed(call: &Call, argv: Vec<Vec<u8>>) -> Result<Vec<u8>, String> {
    let os = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
    let failed = |error: std::io::Error| format!("the preprocessor: {error}");
    let mut child = Command::new(&call.program)
        .arg0(os(&call.argv0))
        .args(argv.iter().map(os))
        .current_dir(&call.cwd)
        .env_clear()
        .envs(call.env.iter().map(|(name, value)| (os(name), os(value))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut text = Vec::new();
    let stdout = child.stdout.take().ok_or("the preprocessor's output was lost")?;
    let all = async {
        stdout.take(PREPROCESSED_BYTES_MAX + 1).read_to_end(&mut text).await?;
        child.wait().await
    };
    let status = tokio::time::timeout(PREPROCESS_MAX, all).await.map_err(|_| "the preprocessor takes too long")?;
    if !status.map_err(failed)?.success() || text.len() as u64 > PREPROCESSED_BYTES_MAX {
        return Err("the preprocessor does not print the source".to_owned());
    }
    Ok(text)
}

impl Wording {
    /// The words of the text with this digest; `read` gives the text if they are not known. `None` if it is another text.
    fn words(&self, digest: &Digest, read: impl FnOnce() -> Option<Vec<u8>>) -> Option<Words> {
        if let Some(words) = self.lock().get(digest) {
            return Some(words.clone());
        }
        let text = read().filter(|text| Digest::of(text) == *digest)?;
        let words = Words::of(&text);
        let mut known = self.lock();
        if known.len() >= TEXTS_MAX {
            known.clear();
        }
        known.insert(*digest, words.clone());
        Some(words)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Words>> {
        self.0.lock().expect("no panic while the words are held")
    }
}
