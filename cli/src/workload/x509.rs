//! `api fetch x509` and `api watch`.

use crate::failure::Failure;
use crate::flags::Values;
use crate::session::Session;

pub(super) async fn fetch(_session: &mut Session, _values: &Values) -> Result<(), Failure> {
    Err(Failure::new("not built yet"))
}
pub(super) async fn watch(_session: &mut Session, _values: &Values) -> Result<(), Failure> {
    Err(Failure::new("not built yet"))
}
