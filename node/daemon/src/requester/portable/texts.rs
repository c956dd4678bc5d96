//! Whether the texts of a unit name the file that they are in: by their words, and where these do not settle it, by asking the
//! compiler's preprocessor. Nobody waits for that but who looks up the same.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use barn_compilers::portable::words::{Origin, Unit, Words, check_preprocessed, preprocess_argv};
use barn_protocol::{ActionResult, Digest};
use tokio::{io::AsyncReadExt as _, process::Command, sync::Semaphore};

use super::super::{Call, Prepared, Requester};

/// Largest preprocessed text, in bytes, and longest run that prints one; the largest units take some ten seconds on a loaded machine.
const PREPROCESSED_BYTES_MAX: u64 = 256 << 20;
const PREPROCESS_MAX: Duration = Duration::from_secs(60);
/// Texts of which the words are remembered; some 100 bytes each.
const TEXTS_MAX: usize = 32_768;
/// Results that wait for their unit to be preprocessed; what is known of their inputs takes some 150 KB each.
const ASKED_MAX: usize = 64;
/// Preprocessors that run at once, beside the build that they must not hold up.
const ASKED_AT_ONCE: usize = 1;

/// The words of texts by the texts' digests, and what is asked of preprocessors. Shared by all requests.
#[derive(Debug)]
pub struct Wording {
    words: Mutex<HashMap<Digest, Words>>,
    asked: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// Why the words of a unit do not settle whether it shows where it is.
pub(super) enum Unclear {
    /// It is not shared anyway.
    Never(String),
    /// Its texts have the words, which says nothing of their use.
    ToBeAsked(String),
}

impl Requester {
    /// Looks whether the texts of a unit can name the file they are in, if that would matter.
    pub(super) fn check_texts(&self, form: &Prepared) -> Result<(), Unclear> {
        let portable = form.call.portable().map_err(Unclear::Never)?;
        if !portable.spelled.names_files {
            return Ok(());
        }
        let mut unit = Unit::default();
        let argv = portable.argv.join(b"\n".as_slice());
        unit.add(&Words::of(&argv), Origin::Anywhere)
            .map_err(|why| Unclear::ToBeAsked(format!("the command line: {why}")))?;
        for (path, known) in &form.inputs.witnesses {
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

    /// Keeps a result without places if the compiler's preprocessor shows that the unit does not use the path of a file. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) fn ask_later(
        self: &Arc<Self>,
        form: Arc<Prepared>,
        result: ActionResult,
    ) -> Result<(), String> {
        if !form.call.may_be_kept() {
            return Err("an archive stands in for its compiler".to_owned());
        }
        let argv = preprocess_argv(&form.call.compile).ok_or("its source is not preprocessed")?;
        let asked = self.wording.asked.clone().try_acquire_owned();
        let asked = asked.map_err(|_| "too many wait to be looked at".to_owned())?;
        let reserved = self.keeper.announce([form.names.own]);
        let this = self.clone();
        tokio::spawn(async move {
            let shown = this.ask_preprocessor(&form.call, argv).await;
            let work = move || {
                let kept = shown.and_then(|()| this.keep_anywhere(&form, result));
                if let Err(why) = kept {
                    tracing::debug!(source = %form.call.source_path().display(), why, "not for other checkouts");
                }
                drop(asked);
            };
            reserved.fill(work).begin();
        });
        Ok(())
    }

    async fn ask_preprocessor(&self, call: &Call, argv: Vec<Vec<u8>>) -> Result<(), String> {
        let _turn = self.wording.turn.acquire().await;
        let text = preprocessed(call, argv).await?;
        check_preprocessed(&text, &call.portable()?.places).map_err(|why| why.to_string())
    }
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
    let ended = tokio::time::timeout(PREPROCESS_MAX, all).await;
    let status = ended.map_err(|_| "the preprocessor takes too long")?.map_err(failed)?;
    if !status.success() || text.len() as u64 > PREPROCESSED_BYTES_MAX {
        return Err("the preprocessor does not print the source".to_owned());
    }
    Ok(text)
}

impl Default for Wording {
    fn default() -> Self {
        Self {
            words: Mutex::default(),
            asked: Arc::new(Semaphore::new(ASKED_MAX)),
            turn: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
        }
    }
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
        self.words.lock().expect("no panic while the words are held")
    }
}
