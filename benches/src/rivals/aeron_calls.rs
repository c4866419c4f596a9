//! Aeron's C client and media driver: all calls of them.
//!
//! Only for messages between two children of this program, which write and read as shown here.
//! A client ends with the last of its publications and images; with it ends all that it opened.

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libaeron_driver_sys as driver;
use libaeron_sys as client;

use crate::error::BenchError;
use crate::message::{PATIENCE, Seen, judge};

/// Messages that one poll takes at most, as in Aeron's own samples.
const FRAGMENTS_MAX: usize = 10;
/// Time between two looks for what the driver does.
const LOOK: Duration = Duration::from_millis(1);

/// A media driver with a thread of its own, until it is dropped.
pub(crate) struct Driver {
    context: *mut driver::aeron_driver_context_t,
    driver: *mut driver::aeron_driver_t,
}

impl Driver {
    /// Starts it in `directory`, one thread for everything, as Aeron's script for IPC does.
    pub(crate) fn start(directory: &Path, idle: &CStr) -> Result<Self, BenchError> {
        let directory = c_path(directory)?;
        let mut started = Self { context: null_mut(), driver: null_mut() };
        let shared = driver::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED;
        // SAFETY: the two places live in `started`, which a failure in between drops; each call
        // gets the object that the one before it has made, and the strings are copied by it.
        unsafe {
            use driver::*;
            check(aeron_driver_context_init(&mut started.context))?;
            check(aeron_driver_context_set_dir(started.context, directory.as_ptr()))?;
            check(aeron_driver_context_set_threading_mode(started.context, shared))?;
            check(aeron_driver_context_set_shared_idle_strategy(started.context, idle.as_ptr()))?;
            check(aeron_driver_context_set_term_buffer_sparse_file(started.context, false))?;
            check(aeron_driver_init(&mut started.driver, started.context))?;
            check(aeron_driver_start(started.driver, false))?;
        }
        Ok(started)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: both were made by `start`, or are null, and end here only; the driver, which
        // uses its context, ends first. There is nobody left to tell that one of them failed to.
        unsafe {
            if !self.driver.is_null() {
                driver::aeron_driver_close(self.driver);
            }
            if !self.context.is_null() {
                driver::aeron_driver_context_close(self.context);
            }
        }
    }
}

/// A connection to the driver.
#[derive(Debug)]
pub(crate) struct Client {
    context: *mut client::aeron_context_t,
    client: *mut client::aeron_t,
}

impl Client {
    /// Connects to the driver of `directory`.
    pub(crate) fn connect(directory: &Path) -> Result<Rc<Self>, BenchError> {
        let directory = c_path(directory)?;
        let mut made = Self { context: null_mut(), client: null_mut() };
        // SAFETY: the two places live in `made`, which a failure in between drops; each call gets
        // the object that the one before it has made, and the string is copied by it.
        unsafe {
            use client::*;
            check(aeron_context_init(&mut made.context))?;
            check(aeron_context_set_dir(made.context, directory.as_ptr()))?;
            check(aeron_context_set_pre_touch_mapped_memory(made.context, true))?;
            check(aeron_init(&mut made.client, made.context))?;
            check(aeron_start(made.client))?;
        }
        Ok(Rc::new(made))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: both were made by `connect`, or are null, and end here only; the client, which
        // uses its context, ends first. What it opened is out of use: whoever uses that holds the
        // client.
        unsafe {
            if !self.client.is_null() {
                client::aeron_close(self.client);
            }
            if !self.context.is_null() {
                client::aeron_context_close(self.context);
            }
        }
    }
}

/// The sending end of a stream.
#[derive(Debug)]
pub(crate) struct Publication {
    publication: NonNull<client::aeron_exclusive_publication_t>,
    _client: Rc<Client>,
}

impl Publication {
    /// The only publication of a stream.
    pub(crate) fn add(
        client: &Rc<Client>,
        channel: &CStr,
        stream: i32,
    ) -> Result<Self, BenchError> {
        let mut adding = null_mut();
        // SAFETY: the client is open, the place is this function's, and the string is copied.
        check(unsafe {
            let uri = channel.as_ptr();
            client::aeron_async_add_exclusive_publication(&mut adding, client.client, uri, stream)
        })?;
        let added = wait_for("Aeron's publication", || {
            let mut publication = null_mut();
            // SAFETY: the call above made what is asked about. It is freed when the answer is not
            // "not yet", after which nobody asks again.
            check(unsafe {
                client::aeron_async_add_exclusive_publication_poll(&mut publication, adding)
            })?;
            Ok(NonNull::new(publication))
        });
        Ok(Self { publication: added?, _client: client.clone() })
    }

    /// Waits until somebody listens.
    pub(crate) fn connected(&self) -> Result<(), BenchError> {
        wait_for("Aeron's other end", || {
            // SAFETY: the publication is open as long as its client is, which this holds.
            let connected = unsafe {
                client::aeron_exclusive_publication_is_connected(self.publication.as_ptr())
            };
            Ok(connected.then_some(()))
        })
    }

    /// Sends a message of `len` bytes that `write` makes in the log, if there is room: no more
    /// than the payload of one frame.
    #[inline(always)]
    pub(crate) fn claim(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<bool, BenchError> {
        let mut claim =
            client::aeron_buffer_claim_t { frame_header: null_mut(), data: null_mut(), length: 0 };
        // SAFETY: the publication is open as long as its client is, which this holds, and is used
        // by this thread only.
        let position = unsafe {
            client::aeron_exclusive_publication_try_claim(
                self.publication.as_ptr(),
                len,
                &mut claim,
            )
        };
        if !sent(position)? {
            return Ok(false);
        }
        // SAFETY: the claim succeeded: `length` bytes of the log at `data` are this publication's
        // until it commits, and were zeroed before. The subscriber, in another child of this
        // program, reads what was committed only.
        write(unsafe { std::slice::from_raw_parts_mut(claim.data, claim.length) });
        // SAFETY: this is the claim that was made above, and the slice has ended.
        check(unsafe { client::aeron_buffer_claim_commit(&mut claim) })?;
        Ok(true)
    }

    /// Copies a message into the log, in as many frames as it takes, if there is room.
    #[inline(always)]
    pub(crate) fn offer(&mut self, message: &[u8]) -> Result<bool, BenchError> {
        // SAFETY: the publication is open as long as its client is, which this holds, and is used
        // by this thread only; the message is copied before the call returns.
        sent(unsafe {
            client::aeron_exclusive_publication_offer(
                self.publication.as_ptr(),
                message.as_ptr(),
                message.len(),
                None,
                null_mut(),
            )
        })
    }
}

/// Whether there was room.
#[inline(always)]
fn sent(position: i64) -> Result<bool, BenchError> {
    match position {
        0.. => Ok(true),
        client::AERON_PUBLICATION_BACK_PRESSURED | client::AERON_PUBLICATION_ADMIN_ACTION => {
            Ok(false)
        }
        client::AERON_PUBLICATION_NOT_CONNECTED | client::AERON_PUBLICATION_CLOSED => {
            Err(BenchError::Peer(Duration::ZERO))
        }
        _ => Err(failed("Aeron's publication")),
    }
}

/// What came of the messages so far: Aeron hands out several with one poll.
#[derive(Debug)]
struct Judged {
    /// Length of every message.
    len: usize,
    /// Messages that were as they should be, which is also the number of the last of them.
    good: u64,
    /// What came after them.
    end: Option<Result<Seen, BenchError>>,
}

impl Judged {
    #[inline(always)]
    fn look(&mut self, message: &[u8], len: usize) {
        if self.end.is_none() {
            match judge(message, len, self.good + 1) {
                Ok(Seen::Message) => self.good += 1,
                other => self.end = Some(other),
            }
        }
    }
}

/// The receiving end of a stream.
#[derive(Debug)]
pub(crate) struct Image {
    image: NonNull<client::aeron_image_t>,
    /// Handlers get it, so that it is reached through this pointer only.
    judged: NonNull<Judged>,
    assembler: *mut client::aeron_image_fragment_assembler_t,
    _client: Rc<Client>,
}

impl Image {
    /// The only publication's image in a subscription of its own; messages have `len` bytes.
    pub(crate) fn of(
        client: &Rc<Client>,
        channel: &CStr,
        stream: i32,
        len: usize,
    ) -> Result<Self, BenchError> {
        let subscription = subscribe(client, channel, stream)?;
        let image = wait_for("Aeron's other end", || {
            // SAFETY: the subscription is open as long as its client is. An image that is there
            // is retained by the call, and so outlives its publication, too.
            Ok(NonNull::new(unsafe {
                client::aeron_subscription_image_at_index(subscription.as_ptr(), 0)
            }))
        })?;
        let judged = NonNull::from(Box::leak(Box::new(Judged { len, good: 0, end: None })));
        let _client = client.clone();
        let mut made = Self { image, judged, assembler: null_mut(), _client };
        // SAFETY: the place lives in `made`; the handler is `judge_any`, which gets the pointer to
        // `Judged` that it wants, and that ends after the assembler.
        check(unsafe {
            client::aeron_image_fragment_assembler_create(
                &mut made.assembler,
                Some(judge_any),
                judged.as_ptr().cast(),
            )
        })?;
        Ok(made)
    }

    /// What is known of message number `expected`.
    #[inline(always)]
    pub(crate) fn verdict(&mut self, expected: u64) -> Option<Result<Seen, BenchError>> {
        // SAFETY: it lives until this image is dropped, and handlers use it during a poll only,
        // which is not now.
        let judged = unsafe { self.judged.as_mut() };
        if judged.good >= expected { Some(Ok(Seen::Message)) } else { judged.end.take() }
    }

    /// Judges the messages that are there, of `N` bytes and one frame each; how many.
    #[inline(always)]
    pub(crate) fn poll_sized<const N: usize>(&mut self) -> Result<c_int, BenchError> {
        self.poll(Some(judge_sized::<N>), self.judged.as_ptr().cast())
    }

    /// Judges the messages that are there, of one frame each; how many.
    #[inline(always)]
    pub(crate) fn poll_any(&mut self) -> Result<c_int, BenchError> {
        self.poll(Some(judge_any), self.judged.as_ptr().cast())
    }

    /// Puts messages together from the frames that are there, and judges those that are whole;
    /// how many frames.
    #[inline(always)]
    pub(crate) fn poll_assembled(&mut self) -> Result<c_int, BenchError> {
        let handler = client::aeron_image_fragment_assembler_handler;
        self.poll(Some(handler), self.assembler.cast())
    }

    #[inline(always)]
    fn poll(
        &mut self,
        handler: client::aeron_fragment_handler_t,
        handed: *mut c_void,
    ) -> Result<c_int, BenchError> {
        // SAFETY: the image is retained, and its client is open, which this holds; each handler
        // comes with what it wants, as the callers above show. This thread alone polls.
        check(unsafe {
            client::aeron_image_poll(self.image.as_ptr(), handler, handed, FRAGMENTS_MAX)
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: the assembler was made by `of`, or is null, and ends here only; what it hands
        // to its handler was leaked from a box by `of`, and ends after it.
        unsafe {
            if !self.assembler.is_null() {
                client::aeron_image_fragment_assembler_delete(self.assembler);
            }
            drop(Box::from_raw(self.judged.as_ptr()));
        }
    }
}

fn subscribe(
    client: &Rc<Client>,
    channel: &CStr,
    stream: i32,
) -> Result<NonNull<client::aeron_subscription_t>, BenchError> {
    let (mut adding, none) = (null_mut(), null_mut());
    // SAFETY: the client is open, the place is this function's, the string is copied, and there
    // are no handlers.
    check(unsafe {
        let uri = channel.as_ptr();
        let client = client.client;
        client::aeron_async_add_subscription(
            &mut adding,
            client,
            uri,
            stream,
            None,
            none,
            None,
            none,
        )
    })?;
    wait_for("Aeron's subscription", || {
        let mut subscription = null_mut();
        // SAFETY: the call above made what is asked about. It is freed when the answer is not
        // "not yet", after which nobody asks again.
        check(unsafe { client::aeron_async_add_subscription_poll(&mut subscription, adding) })?;
        Ok(NonNull::new(subscription))
    })
}

/// Judges a message whose length the compiler knows.
///
/// # Safety
/// `judged` is a [`Judged`] that nobody else uses meanwhile, and `length` bytes at `buffer` can be
/// read and do not change.
unsafe extern "C" fn judge_sized<const N: usize>(
    judged: *mut c_void,
    buffer: *const u8,
    length: usize,
    _header: *mut client::aeron_header_t,
) {
    // SAFETY: the caller's promise, which is the same.
    let (judged, message) = unsafe { parts(judged, buffer, length) };
    match <&[u8; N]>::try_from(message) {
        Ok(message) => judged.look(message, N),
        Err(_) => judged.look(message, N),
    }
}

/// Judges a message.
///
/// # Safety
/// `judged` is a [`Judged`] that nobody else uses meanwhile, and `length` bytes at `buffer` can be
/// read and do not change.
unsafe extern "C" fn judge_any(
    judged: *mut c_void,
    buffer: *const u8,
    length: usize,
    _header: *mut client::aeron_header_t,
) {
    // SAFETY: the caller's promise, which is the same.
    let (judged, message) = unsafe { parts(judged, buffer, length) };
    judged.look(message, judged.len);
}

/// What Aeron hands to a handler.
///
/// # Safety
/// `judged` is a [`Judged`] that nobody else uses meanwhile, and `length` bytes at `buffer` can be
/// read and do not change.
#[inline(always)]
unsafe fn parts<'a>(
    judged: *mut c_void,
    buffer: *const u8,
    length: usize,
) -> (&'a mut Judged, &'a [u8]) {
    // SAFETY: the caller's promise.
    unsafe { (&mut *judged.cast(), std::slice::from_raw_parts(buffer, length)) }
}

/// Asks until there is something.
fn wait_for<T>(
    what: &'static str,
    mut ask: impl FnMut() -> Result<Option<T>, BenchError>,
) -> Result<T, BenchError> {
    let start = Instant::now();
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            let why = format!("nothing came for {PATIENCE:?}; is the media driver running?");
            return Err(BenchError::Rival { what, why });
        }
        std::thread::sleep(LOOK);
    }
}

/// A call's result, or why it failed.
#[inline(always)]
fn check(result: c_int) -> Result<c_int, BenchError> {
    if result < 0 { Err(failed("Aeron")) } else { Ok(result) }
}

#[cold]
fn failed(what: &'static str) -> BenchError {
    // SAFETY: it always answers a string that ends with a zero and is this thread's; nothing else
    // of Aeron's is called before it is copied. The client and the driver share it.
    let why = unsafe { CStr::from_ptr(client::aeron_errmsg()) };
    BenchError::Rival { what, why: why.to_string_lossy().into_owned() }
}

fn c_path(path: &Path) -> Result<CString, BenchError> {
    CString::new(path.as_os_str().as_bytes()).map_err(BenchError::rival("Aeron's directory"))
}
