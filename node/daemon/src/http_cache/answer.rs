//! From a request to a response.

use std::sync::atomic::{AtomicU64, Ordering};

use barn_protocol::limits::BLOB_BYTES_MAX;
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
};
use tokio::task::spawn_blocking;

use super::{
    Shared,
    body::Reply,
    route::{Entry, Target, route},
    upload::{UploadError, discard, upload},
};

/// Longest body of a request whose body does not matter, in bytes: a property query of WebDAV has 200.
const IDLE_BODY_BYTES_MAX: u64 = 16 << 10;
/// What an entry can be asked.
const ENTRY_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT, DELETE, PROPFIND");
/// What a folder can be asked.
const FOLDER_METHODS: HeaderValue = HeaderValue::from_static("PROPFIND, MKCOL");
/// WebDAV wants a time of change, and the store keeps none.
const LAST_MODIFIED: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// Answers one request.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Reply> {
    let (head, body) = request.into_parts();
    let Some(path) = shared.token.admit(&head.headers, head.uri.path()) else {
        count(&shared.counters.refused);
        tracing::debug!(method = %head.method, "a request without the token");
        return unauthorized();
    };
    let response = match (route(path), head.method.as_str()) {
        (Err(error), _) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        (Ok(Target::Entry(entry)), "GET") => get(shared, entry).await,
        (Ok(Target::Entry(entry)), "HEAD") => with_size(shared, entry, found).await,
        (Ok(Target::Entry(entry)), "PUT") => put(shared, &entry, &head.headers, body).await,
        (Ok(Target::Entry(entry)), "DELETE") => delete(shared, entry).await,
        (Ok(Target::Entry(entry)), "PROPFIND") => match discard(body, IDLE_BODY_BYTES_MAX).await {
            Ok(()) => {
                let href = head.uri.path();
                with_size(shared, entry, |size| properties(href, Some(size))).await
            }
            Err(error) => refused(&error),
        },
        (Ok(Target::Folder), "PROPFIND") => match discard(body, IDLE_BODY_BYTES_MAX).await {
            Ok(()) => properties(head.uri.path(), None),
            Err(error) => refused(&error),
        },
        (Ok(Target::Folder), "MKCOL") => empty(StatusCode::CREATED),
        (Ok(Target::Entry(_)), _) => not_allowed(ENTRY_METHODS),
        (Ok(Target::Folder), _) => not_allowed(FOLDER_METHODS),
    };
    log(&head.method, path, response.status());
    response
}

async fn get(shared: &Shared, entry: Entry) -> Response<Reply> {
    let (store, key) = (shared.store.clone(), entry.key());
    let opened = spawn_blocking(move || store.open_foreign(&key)).await;
    let Some((file, size)) = opened.ok().flatten() else {
        count(&shared.counters.misses);
        return empty(StatusCode::NOT_FOUND);
    };
    count(&shared.counters.hits);
    let mut response = found(size);
    *response.body_mut() = Reply::File { file: tokio::fs::File::from_std(file), left: size };
    response
}

/// An answer that is about an entry, or that there is none.
async fn with_size(
    shared: &Shared,
    entry: Entry,
    make: impl FnOnce(u64) -> Response<Reply>,
) -> Response<Reply> {
    let (store, key) = (shared.store.clone(), entry.key());
    let blob = spawn_blocking(move || store.foreign(&key)).await;
    blob.ok().flatten().map_or_else(|| empty(StatusCode::NOT_FOUND), |blob| make(blob.size))
}

async fn put(shared: &Shared, entry: &Entry, headers: &HeaderMap, body: Incoming) -> Response<Reply> {
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return text(StatusCode::LENGTH_REQUIRED, "a body is needed");
    }
    match upload(shared, entry, body).await {
        Ok(()) => {
            count(&shared.counters.stored);
            empty(StatusCode::CREATED)
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(%error, source, "an entry was not stored");
            refused(&error)
        }
    }
}

async fn delete(shared: &Shared, entry: Entry) -> Response<Reply> {
    let (store, key) = (shared.store.clone(), entry.key());
    match spawn_blocking(move || store.drop_foreign(&key)).await {
        Ok(Ok(true)) => empty(StatusCode::NO_CONTENT),
        Ok(Ok(false)) => empty(StatusCode::NOT_FOUND),
        _ => empty(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn refused(error: &UploadError) -> Response<Reply> {
    let status = match error {
        UploadError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        UploadError::Silent => StatusCode::REQUEST_TIMEOUT,
        UploadError::Broken(_) | UploadError::Mismatch => StatusCode::BAD_REQUEST,
        UploadError::Busy | UploadError::Write(_) | UploadError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, &error.to_string())
}

/// There is an entry of this size.
fn found(size: u64) -> Response<Reply> {
    debug_assert!(size <= BLOB_BYTES_MAX);
    let mut response = empty(StatusCode::OK);
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    response
}

/// A WebDAV answer about an entry of this size, or about a folder. `href` is of characters that need no escaping in XML: a
/// token, slashes, and what [`route`] lets through.
fn properties(href: &str, size: Option<u64>) -> Response<Reply> {
    let kind = size.map_or_else(
        || "<D:resourcetype><D:collection/></D:resourcetype>".to_owned(),
        |size| format!("<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>"),
    );
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response>\
         <D:href>{href}</D:href><D:propstat><D:prop>\
         <D:getlastmodified>{LAST_MODIFIED}</D:getlastmodified>{kind}</D:prop>\
         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>\n"
    );
    let mut response = text(StatusCode::MULTI_STATUS, &xml);
    let xml_type = HeaderValue::from_static("application/xml; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, xml_type);
    response
}

fn unauthorized() -> Response<Reply> {
    let mut response = text(StatusCode::UNAUTHORIZED, "the token is needed");
    let challenge = HeaderValue::from_static("Basic realm=\"barn\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn not_allowed(methods: HeaderValue) -> Response<Reply> {
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

fn empty(status: StatusCode) -> Response<Reply> {
    text(status, "")
}

fn text(status: StatusCode, text: &str) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// `path` is without the token.
fn log(method: &Method, path: &str, status: StatusCode) {
    tracing::debug!(%method, path, status = status.as_u16(), "answered");
}
