//! The codec against itself, against bytes from the specification's rules, and against anything.

use proptest::prelude::*;

use super::*;

/// A call as a client with the big end first sends it, written by hand.
const BIG: &[u8] = b"B\x01\x00\x01\x00\x00\x00\x08\x00\x00\x00\x07\x00\x00\x00\x23\
\x08\x01g\x00\x01s\x00\x00\
\x03\x01s\x00\x00\x00\x00\x04Ping\x00\x00\x00\x00\
\x01\x01o\x00\x00\x00\x00\x02/a\x00\x00\x00\x00\x00\x00\
\x00\x00\x00\x03abc\x00";

#[test]
fn reads_numbers_of_either_order() {
    let message = Message::parse(BIG).unwrap();
    assert_eq!((message.kind, message.serial), (Kind::Call, 7));
    assert_eq!(message.fields.member.as_deref(), Some("Ping"));
    assert_eq!(message.fields.path.as_deref(), Some("/a"));
    assert_eq!(message.body.text().as_deref(), Ok("abc"));
}

#[test]
fn a_value_of_another_type_is_told_from_a_value() {
    assert_eq!(Body::number("u", 7).u32(), Ok(7));
    assert_eq!(Body::number("u", 7).text(), Err(MessageError::AnotherType));
    assert_eq!(Body::strings(&["a"]).u32(), Err(MessageError::AnotherType));
    assert_eq!(Body::variant("x").text().as_deref(), Ok("x"));
    assert_eq!(Body::default().text(), Err(MessageError::AnotherType));
    assert_eq!(Body::strings(&["a", "b"]).second_text().as_deref(), Ok("b"));
}

#[test]
fn a_message_that_says_it_is_too_long_is_refused_by_its_first_bytes() {
    for (at, byte) in [(6, 0xff), (15, 0xff), (7, 0xff)] {
        let mut prefix = *BIG.first_chunk().unwrap();
        prefix[at - 2] = byte;
        assert_eq!(Message::length(&prefix), Err(MessageError::TooLong));
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over_and_those_that_come_twice_are_not() {
    let message = |fields: &[u8]| {
        let mut writer = Writer::default();
        writer.append(b"l\x04\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00");
        let at = writer.mark_length();
        writer.append(fields);
        writer.set_length(at);
        writer.align(8);
        Message::parse(&writer.into_bytes())
    };
    assert!(message(b"\x0b\x01t\x00\x00\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08").is_ok());
    assert!(message(b"\x0b\x02at\x00").is_err());
    let twice = b"\x05\x01u\x00\x01\x00\x00\x00";
    assert!(message(twice).is_ok());
    assert!(message(&twice.repeat(2)).is_err());
    // A known field of another type.
    assert!(message(b"\x05\x01i\x00\x01\x00\x00\x00").is_err());
    // No field has the number 0.
    assert!(message(b"\x00\x01u\x00\x01\x00\x00\x00").is_err());
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[^\\x00]{0,40}")
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        kind in prop_oneof![Just(Kind::Call), Just(Kind::Return), Just(Kind::Error), Just(Kind::Signal)],
        serial in 1u32..,
        names in (text(), text(), text(), text(), text(), text()),
        numbers: (Option<u32>, Option<u32>),
        body in prop_oneof![
            Just(Body::default()),
            any::<u32>().prop_map(|value| Body::number("h", value)),
            "[^\\x00]{0,40}".prop_map(|text| Body::variant(&text)),
            ("[^\\x00]{0,40}", "[^\\x00]{0,40}").prop_map(|(a, b)| Body::strings(&[&a, &b])),
            ("/[a-z]{0,9}", "[a-z]{0,9}").prop_map(|(path, id)| Body::unit(&path, Some(&id))),
        ],
    ) {
        let (path, interface, member, error_name, destination, sender) = names;
        let (reply_serial, unix_fds) = numbers;
        let fields = Fields { path, interface, member, error_name, reply_serial, destination, sender, unix_fds };
        let message = Message { kind, serial, fields, body };
        let bytes = message.encode();
        prop_assert_eq!(Message::length(bytes.first_chunk().unwrap()), Ok(bytes.len()));
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
        prop_assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0..BIG.len(), byte: u8) {
        let mut bytes = BIG.to_vec();
        bytes[at] = byte;
        if let Ok(message) = Message::parse(&bytes) {
            let _ = (message.body.text(), message.body.u32(), message.body.second_text());
        }
    }
}
