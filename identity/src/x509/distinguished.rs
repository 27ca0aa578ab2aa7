//! Distinguished names as far as this project writes them into certificates.

use x509_parser::{prelude::FromDer, x509::X509Name};

/// The most attributes of a name that is taken.
const MAX_ATTRIBUTES: usize = 32;
/// The longest value of an attribute, in bytes. RFC 5280 A.1 has shorter ones for most.
const MAX_VALUE_BYTES: usize = 256;

/// An attribute of a name, in the order in which a name is written.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Attribute {
    /// `C`
    Country,
    /// `O`
    Organization,
    /// `OU`
    OrganizationalUnit,
    /// `L`
    Locality,
    /// `ST`
    Province,
    /// `STREET`
    Street,
    /// `POSTALCODE`
    PostalCode,
    /// `CN`
    CommonName,
    /// `SERIALNUMBER`
    SerialNumber,
    /// `x500UniqueIdentifier`, as SPIRE writes it: a text, where RFC 4519 2.44 has bits. It is never read.
    UniqueIdentifier,
}

impl Attribute {
    /// Those that are read.
    const ALL: [Self; 9] = [
        Self::Country,
        Self::Organization,
        Self::OrganizationalUnit,
        Self::Locality,
        Self::Province,
        Self::Street,
        Self::PostalCode,
        Self::CommonName,
        Self::SerialNumber,
    ];

    /// The last arc of its object identifier; all are below 2.5.4 (RFC 4519 2).
    pub const fn arc(self) -> u8 {
        match self {
            Self::CommonName => 3,
            Self::SerialNumber => 5,
            Self::Country => 6,
            Self::Locality => 7,
            Self::Province => 8,
            Self::Street => 9,
            Self::Organization => 10,
            Self::OrganizationalUnit => 11,
            Self::PostalCode => 17,
            Self::UniqueIdentifier => 45,
        }
    }

    fn of(oid: &str) -> Option<Self> {
        let arc = oid.strip_prefix("2.5.4.")?;
        let is_it = |attribute: &Self| arc.parse() == Ok(attribute.arc());
        Self::ALL.into_iter().find(is_it)
    }
}

/// A name made of known attributes alone.
///
/// Unknown attributes are left out, as SPIRE leaves them out; the known ones are put into one order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DistinguishedName(Vec<(Attribute, String)>);

impl DistinguishedName {
    /// Reads a name in DER (RFC 5280 4.1.2.4), and nothing after it.
    pub fn from_der(der: &[u8]) -> Result<Self, NameError> {
        let (rest, name) = X509Name::from_der(der).or(Err(NameError::Malformed))?;
        if !rest.is_empty() {
            return Err(NameError::Malformed);
        }
        let mut read = Vec::new();
        for part in name.iter_attributes() {
            let Some(attribute) = Attribute::of(&part.attr_type().to_id_string()) else {
                continue;
            };
            let value = part.as_str().or(Err(NameError::NotText))?;
            if value.len() > MAX_VALUE_BYTES || read.len() == MAX_ATTRIBUTES {
                return Err(NameError::TooLong);
            }
            // A NUL in a common name once passed for the end of it.
            if value.chars().any(char::is_control) {
                return Err(NameError::ControlCharacter);
            }
            read.push((attribute, value.to_owned()));
        }
        // Stable: values of one attribute keep their order.
        read.sort_by_key(|(attribute, _)| *attribute);
        Ok(Self(read))
    }

    /// The same name, with this value in place of all that the attribute had.
    #[must_use]
    pub fn with(mut self, attribute: Attribute, value: impl Into<String>) -> Self {
        self.0.retain(|(other, _)| *other != attribute);
        let at = self.0.partition_point(|(other, _)| *other < attribute);
        self.0.insert(at, (attribute, value.into()));
        self
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The attributes in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.0
            .iter()
            .map(|(attribute, value)| (*attribute, value.as_str()))
    }
}

/// Why a name is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The bytes are not a name.
    #[error("name is malformed")]
    Malformed,
    /// A known attribute has a value that is no text.
    #[error("name has an attribute that is not text")]
    NotText,
    /// A value is above 256 bytes, or there are more than 32.
    #[error("name is longer than {MAX_ATTRIBUTES} attributes of {MAX_VALUE_BYTES} bytes")]
    TooLong,
    /// A value has a control character.
    #[error("name has a control character")]
    ControlCharacter,
}

impl NameError {
    /// A stable label for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "name_malformed",
            Self::NotText => "name_not_text",
            Self::TooLong => "name_too_long",
            Self::ControlCharacter => "name_control_character",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;
    use crate::x509::Certificate;

    fn name(parts: &[(DnType, DnValue)]) -> Result<DistinguishedName, NameError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        DistinguishedName::from_der(Certificate::parse(der.der()).unwrap().subject_der())
    }

    fn text(value: &str) -> DnValue {
        DnValue::Utf8String(value.to_owned())
    }

    #[test]
    fn known_attributes_are_read_in_one_order_and_the_others_left_out() {
        let read = name(&[
            (DnType::CommonName, text("web")),
            (DnType::CustomDnType(vec![1, 2, 3, 4]), text("odd")),
            (DnType::CountryName, text("CH")),
        ]);
        let read = read.unwrap();
        let parts: Vec<_> = read.iter().collect();
        assert_eq!(
            parts,
            [(Attribute::Country, "CH"), (Attribute::CommonName, "web")]
        );
        let other = read
            .with(Attribute::CommonName, "api")
            .with(Attribute::OrganizationalUnit, "DOWNSTREAM-1");
        let parts: Vec<_> = other.iter().collect();
        assert_eq!(
            parts,
            [
                (Attribute::Country, "CH"),
                (Attribute::OrganizationalUnit, "DOWNSTREAM-1"),
                (Attribute::CommonName, "api"),
            ]
        );
    }

    #[test]
    fn what_could_be_taken_for_another_name_is_refused() {
        let common = |value: &str| name(&[(DnType::CommonName, text(value))]);
        assert_eq!(
            common("good.example\0evil.example"),
            Err(NameError::ControlCharacter)
        );
        assert_eq!(common("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(common(&"a".repeat(257)), Err(NameError::TooLong));
        assert!(common(&"a".repeat(256)).is_ok());
        assert_eq!(
            DistinguishedName::from_der(b"\x30\x00\x00"),
            Err(NameError::Malformed)
        );
        assert!(DistinguishedName::from_der(b"\x30\x00").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_name_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = DistinguishedName::from_der(&bytes);
        }
    }
}
