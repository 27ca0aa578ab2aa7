//! `bundle show|list|set`.

use crate::failure::Failure;
use crate::flags::Values;
use crate::session::Session;

pub(super) async fn show(_session: &mut Session, _values: &Values) -> Result<(), Failure> {
    Err(Failure::new("not built yet"))
}
pub(super) async fn list(_session: &mut Session, _values: &Values) -> Result<(), Failure> {
    Err(Failure::new("not built yet"))
}
pub(super) async fn set(_session: &mut Session, _values: &Values) -> Result<(), Failure> {
    Err(Failure::new("not built yet"))
}
