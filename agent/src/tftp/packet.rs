//! TFTP datagrams: parse and emit, no policy.
//!
//! Parsing borrows from the datagram and allocates nothing, whatever the datagram holds. What the values of options mean is
//! left to [`super::options`], what a name means to [`super::name`].

use std::fmt;

/// The longest request, in bytes (RFC 2347).
pub const REQUEST_LEN_MAX: usize = 512;
/// The bytes of a DATA datagram before its data.
pub const DATA_HEADER_LEN: usize = 4;

/// The longest file name in a request, in bytes.
const NAME_LEN_MAX: usize = 255;
/// The most options in a request or an OACK, known and unknown. RFC 2348, 2349 and 7440 define four.
const OPTIONS_MAX: usize = 8;

/// The length of the shortest packet, an ACK, in bytes.
const PACKET_LEN_MIN: usize = 4;

const READ_REQUEST: u16 = 1;
const WRITE_REQUEST: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

const BLKSIZE: &[u8] = b"blksize";
const TIMEOUT: &[u8] = b"timeout";
const TSIZE: &[u8] = b"tsize";
const WINDOWSIZE: &[u8] = b"windowsize";

/// One datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ: send me this file.
    ReadRequest(Request<'a>),
    /// WRQ: take this file.
    WriteRequest(Request<'a>),
    /// DATA: one block.
    Data {
        /// The block's number, from 1, rolling over from 65,535 to 0.
        block: u16,
        /// The block, shorter than the agreed length if it is the last.
        data: &'a [u8],
    },
    /// ACK: every block up to this one has arrived.
    Ack {
        /// The block's number; 0 accepts an OACK.
        block: u16,
    },
    /// ERROR: the transfer is over.
    Error {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people; not checked, so it is escaped wherever it is shown.
        text: &'a [u8],
    },
    /// OACK: what the server agrees to.
    OptionAck(Options),
}

/// What RRQ and WRQ carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The file's name as asked, not checked beyond its length.
    pub name: &'a [u8],
    /// How the file is to be sent.
    pub mode: Mode,
    /// What is asked beyond RFC 1350.
    pub options: Options,
}

/// How a file is to be sent (RFC 1350 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Byte for byte.
    Octet,
    /// As text, with line ends converted.
    Netascii,
    /// To a user; obsolete.
    Mail,
}

/// The options with a meaning here, as the numbers on the wire. Others are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Bytes in a block (RFC 2348).
    pub blksize: Option<u64>,
    /// Seconds until the server sends again (RFC 2349).
    pub timeout_s: Option<u64>,
    /// Bytes in the file (RFC 2349).
    pub tsize_bytes: Option<u64>,
    /// Blocks sent before an ACK is awaited (RFC 7440).
    pub windowsize: Option<u64>,
}

/// Why a transfer ends early (RFC 1350 §5, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// See the text.
    pub const NOT_DEFINED: Self = Self(0);
    /// File not found.
    pub const FILE_NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS_VIOLATION: Self = Self(2);
    /// Illegal TFTP operation.
    pub const ILLEGAL_OPERATION: Self = Self(4);
    /// The OACK does not please.
    pub const OPTION_REFUSED: Self = Self(8);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a datagram is not a TFTP packet. The log gets the text; [`ParseError::is_answered`] says whether the sender hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than any packet.
    #[error("datagram of {0} bytes is no packet")]
    Short(usize),
    /// A request that ends too early.
    #[error("request ends inside the {0}")]
    Truncated(&'static str),
    /// Nothing that RFC 1350 or 2347 define.
    #[error("opcode {0} is not a TFTP opcode")]
    Opcode(u16),
    /// RFC 2347 allows no longer request.
    #[error("request of {0} bytes, at most {REQUEST_LEN_MAX} are allowed")]
    RequestLong(usize),
    /// No file has such a name.
    #[error("file name of {0} bytes, at most {NAME_LEN_MAX} are allowed")]
    NameLong(usize),
    /// Not one of octet, netascii and mail.
    #[error("unknown transfer mode, ask for octet")]
    Mode,
    /// More options than exist.
    #[error("more than {OPTIONS_MAX} options")]
    OptionsMany,
    /// An OACK whose options cannot be read.
    #[error("OACK without readable options")]
    OptionAck,
}

impl ParseError {
    /// Whether the datagram was meant as a request, so that its sender waits for an answer (ERROR 4).
    ///
    /// Anything else is dropped without a word: two programs that answer garbage with errors never stop (F11).
    pub fn is_answered(&self) -> bool {
        !matches!(self, Self::Opcode(_) | Self::Short(_) | Self::OptionAck)
    }
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// The datagram is not a TFTP packet.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let short = ParseError::Short(datagram.len());
        let (opcode, rest) = split_u16(datagram).ok_or(short)?;
        match opcode {
            READ_REQUEST | WRITE_REQUEST if datagram.len() < PACKET_LEN_MIN => Err(short),
            READ_REQUEST | WRITE_REQUEST if datagram.len() > REQUEST_LEN_MAX => {
                Err(ParseError::RequestLong(datagram.len()))
            }
            READ_REQUEST => Request::parse(rest).map(Self::ReadRequest),
            WRITE_REQUEST => Request::parse(rest).map(Self::WriteRequest),
            DATA => {
                let (block, data) = split_u16(rest).ok_or(short)?;
                Ok(Self::Data { block, data })
            }
            ACK => {
                let (block, _) = split_u16(rest).ok_or(short)?;
                Ok(Self::Ack { block })
            }
            ERROR => {
                let (code, text) = split_u16(rest).ok_or(short)?;
                // Firmware leaves the NUL out; the text is for people, so what is there is taken.
                let text = split_string(text).map_or(text, |(text, _)| text);
                Ok(Self::Error { code: ErrorCode(code), text })
            }
            OPTION_ACK => {
                Options::parse(rest).map(Self::OptionAck).map_err(|_| ParseError::OptionAck)
            }
            _ => Err(ParseError::Opcode(opcode)),
        }
    }

    /// Appends the datagram to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::ReadRequest(request) => {
                emit_u16(READ_REQUEST, out);
                request.emit(out);
            }
            Self::WriteRequest(request) => {
                emit_u16(WRITE_REQUEST, out);
                request.emit(out);
            }
            Self::Data { block, data } => {
                emit_u16(DATA, out);
                emit_u16(*block, out);
                out.extend_from_slice(data);
            }
            Self::Ack { block } => {
                emit_u16(ACK, out);
                emit_u16(*block, out);
            }
            Self::Error { code, text } => {
                emit_u16(ERROR, out);
                emit_u16(code.0, out);
                emit_string(text, out);
            }
            Self::OptionAck(options) => {
                emit_u16(OPTION_ACK, out);
                options.emit(out);
            }
        }
    }
}

/// Appends the header of a DATA datagram, for one whose data is copied together from several places.
pub fn emit_data_header(block: u16, out: &mut Vec<u8>) {
    Packet::Data { block, data: &[] }.emit(out);
}

impl<'a> Request<'a> {
    fn parse(rest: &'a [u8]) -> Result<Self, ParseError> {
        let (name, rest) = split_string(rest).ok_or(ParseError::Truncated("file name"))?;
        if name.len() > NAME_LEN_MAX {
            return Err(ParseError::NameLong(name.len()));
        }
        let (mode, rest) = split_string(rest).ok_or(ParseError::Truncated("mode"))?;
        let mode = Mode::parse(mode).ok_or(ParseError::Mode)?;
        Ok(Self { name, mode, options: Options::parse(rest)? })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        emit_string(self.name, out);
        emit_string(self.mode.as_str().as_bytes(), out);
        self.options.emit(out);
    }
}

impl Mode {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
            Self::Mail => "mail",
        }
    }

    fn parse(word: &[u8]) -> Option<Self> {
        [Self::Octet, Self::Netascii, Self::Mail]
            .into_iter()
            .find(|mode| mode.as_str().as_bytes().eq_ignore_ascii_case(word))
    }
}

impl Options {
    /// Whether no option is there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn parse(mut rest: &[u8]) -> Result<Self, ParseError> {
        let mut fields = [(BLKSIZE, None), (TIMEOUT, None), (TSIZE, None), (WINDOWSIZE, None)];
        // An empty name begins no option: some firmware fills its datagram up with NUL.
        for count in 0.. {
            if rest.first().is_none_or(|byte| *byte == 0) {
                break;
            }
            if count == OPTIONS_MAX {
                return Err(ParseError::OptionsMany);
            }
            let (name, after) = split_string(rest).ok_or(ParseError::Truncated("option name"))?;
            let (value, after) =
                split_string(after).ok_or(ParseError::Truncated("option value"))?;
            rest = after;
            let is_named = |field: &&mut (&[u8], _)| field.0.eq_ignore_ascii_case(name);
            if let Some((_, field)) = fields.iter_mut().find(is_named) {
                // RFC 2347: an option may stand once; of several the first counts, also if its value is no number.
                field.get_or_insert_with(|| parse_number(value));
            }
        }
        let [blksize, timeout_s, tsize_bytes, windowsize] =
            fields.map(|(_, value)| value.flatten());
        Ok(Self { blksize, timeout_s, tsize_bytes, windowsize })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let fields = [
            (BLKSIZE, self.blksize),
            (TIMEOUT, self.timeout_s),
            (TSIZE, self.tsize_bytes),
            (WINDOWSIZE, self.windowsize),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                emit_string(name, out);
                emit_string(value.to_string().as_bytes(), out);
            }
        }
    }
}

/// RFC 2347: values are decimal digits as ASCII. A sign, which `str::parse` takes, is none.
fn parse_number(value: &[u8]) -> Option<u64> {
    value
        .iter()
        .all(u8::is_ascii_digit)
        .then_some(value)
        .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok())
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*head), rest))
}

/// The bytes before the first NUL, and those behind it.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

fn emit_u16(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn emit_string(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(text);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    fn emitted(packet: &Packet<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet.emit(&mut bytes);
        bytes
    }

    fn any_options() -> impl Strategy<Value = Options> {
        (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u64>())).prop_map(
            |(blksize, timeout_s, tsize_bytes, windowsize)| Options {
                blksize,
                timeout_s,
                tsize_bytes,
                windowsize,
            },
        )
    }

    fn survives(packet: &Packet<'_>) -> Result<(), TestCaseError> {
        let bytes = emitted(packet);
        prop_assert_eq!(Packet::parse(&bytes), Ok(*packet));
        Ok(())
    }

    proptest! {
        #[test]
        fn a_packet_survives_its_own_bytes(
            text in vec(1..=255u8, 0..=NAME_LEN_MAX),
            data in vec(any::<u8>(), 0..2_000),
            number in any::<u16>(),
            mode in prop_oneof![Just(Mode::Octet), Just(Mode::Netascii), Just(Mode::Mail)],
            options in any_options(),
        ) {
            let request = Request { name: &text, mode, options };
            survives(&Packet::ReadRequest(request))?;
            survives(&Packet::WriteRequest(request))?;
            survives(&Packet::Data { block: number, data: &data })?;
            survives(&Packet::Ack { block: number })?;
            survives(&Packet::Error { code: ErrorCode(number), text: &text })?;
            survives(&Packet::OptionAck(options))?;
        }

        #[test]
        fn f1_any_bytes_are_a_packet_or_an_error(bytes in vec(any::<u8>(), 0..700)) {
            _ = Packet::parse(&bytes);
        }

        #[test]
        fn f2_any_request_is_a_packet_or_an_error(
            opcode in 1..=6u8,
            words in vec("(blksize|TSIZE|octet|[0-9]{0,22}|[ -~]{0,9})\0?", 0..12),
        ) {
            let mut bytes = vec![0, opcode];
            bytes.extend(words.concat().bytes());
            if let Ok(packet) = Packet::parse(&bytes) {
                survives(&packet)?;
            }
        }
    }

    /// `text` with NUL for every bar.
    fn wire(text: &str) -> Vec<u8> {
        text.replace('|', "\0").into_bytes()
    }

    #[track_caller]
    fn check_options(text: &str, expected: Options) {
        let bytes = [b"\0\x01", wire(&format!("a|OcTeT|{text}")).as_slice()].concat();
        let request = Request { name: b"a", mode: Mode::Octet, options: expected };
        assert_eq!(Packet::parse(&bytes), Ok(Packet::ReadRequest(request)));
    }

    #[test]
    fn option_names_ignore_case_and_unknown_options() {
        check_options(
            "BlkSize|1468|multicast||TSIZE|0|utimeout|5|",
            Options { blksize: Some(1468), tsize_bytes: Some(0), ..Options::default() },
        );
    }

    #[test]
    fn f3_of_an_option_asked_twice_the_first_counts() {
        let second = Options { windowsize: Some(4), ..Options::default() };
        check_options("windowsize|4|windowsize|8|", second);
        check_options("blksize|x|blksize|1024|", Options::default());
    }

    #[test]
    fn f3_a_value_that_is_no_number_is_not_asked() {
        for value in ["1e9", "-1", "+1", "", " 1", "0x10", "99999999999999999999"] {
            check_options(&format!("blksize|{value}|"), Options::default());
        }
    }

    #[test]
    fn nul_bytes_after_the_options_are_padding() {
        check_options("tsize|0||||", Options { tsize_bytes: Some(0), ..Options::default() });
    }

    #[test]
    fn f1_what_is_too_short_or_unknown_is_dropped_without_an_answer() {
        for bytes in [
            &b""[..],
            b"\0",
            b"\0\x03\0",
            b"\0\x04",
            b"\0\x05\0",
            b"\0\x07abc",
            b"\xff\xff",
            b"\0\x01",
            b"\0\x01a",
            b"\0\x02a",
            b"\0\x06tsize",
        ] {
            let error = Packet::parse(bytes).unwrap_err();
            assert!(!error.is_answered(), "{error}");
        }
    }

    #[test]
    fn f2_a_malformed_request_is_answered() {
        let long = format!("{}|octet|", "a".repeat(256));
        let longer = format!("a|octet|{}", "a".repeat(513));
        let many = format!("a|octet|{}", "o|1|".repeat(9));
        for (text, error) in [
            ("ab", ParseError::Truncated("file name")),
            ("abc", ParseError::Truncated("file name")),
            ("abc|octet", ParseError::Truncated("mode")),
            ("abc|binary|", ParseError::Mode),
            ("abc|octet|tsize", ParseError::Truncated("option name")),
            ("abc|octet|tsize|0", ParseError::Truncated("option value")),
            (&long, ParseError::NameLong(256)),
            (&longer, ParseError::RequestLong(523)),
            (&many, ParseError::OptionsMany),
        ] {
            let bytes = [b"\0\x01", wire(text).as_slice()].concat();
            assert_eq!(Packet::parse(&bytes), Err(error));
            assert!(error.is_answered(), "{error}");
        }
    }

    #[test]
    fn an_error_text_without_its_nul_is_taken() {
        let expected = Packet::Error { code: ErrorCode::OPTION_REFUSED, text: b"no" };
        assert_eq!(Packet::parse(b"\0\x05\0\x08no"), Ok(expected));
    }
}
