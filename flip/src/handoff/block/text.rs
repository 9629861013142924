//! Text, paths and raw names.

use std::{
    borrow::Cow,
    ffi::{CStr, CString, OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::{RestoreError, Restorer, SaveError, Saver, leaf};

fn save_bytes(bytes: &[u8], out: &mut Saver<'_>) -> Result<(), SaveError> {
    out.length(bytes.len())?;
    out.bytes(bytes)
}

fn restore_bytes(input: &mut Restorer<'_>) -> Result<Vec<u8>, RestoreError> {
    let length = input.length()?;
    input.bytes(length)
}

fn restore_c(input: &mut Restorer<'_>) -> Result<CString, RestoreError> {
    CString::new(restore_bytes(input)?).map_err(|_| RestoreError::new("a NUL inside of a C string"))
}

leaf!(String, Text, |value, out| out.text(value), |input| input.text());
leaf!(Box<str>, Text, |value, out| out.text(value), |input| Ok(input.text()?.into()));
leaf!(Cow<'_, str>, Text, |value, out| out.text(value), |input| Ok(Cow::Owned(input.text()?)));

leaf!(OsString, OsText, |value, out| save_bytes(value.as_bytes(), out), |input| Ok(OsString::from_vec(restore_bytes(
    input
)?)));
leaf!(Box<OsStr>, OsText, |value, out| save_bytes(value.as_bytes(), out), |input| Ok(OsString::from_vec(
    restore_bytes(input)?
)
.into()));
leaf!(Cow<'_, OsStr>, OsText, |value, out| save_bytes(value.as_bytes(), out), |input| Ok(Cow::Owned(
    OsString::from_vec(restore_bytes(input)?)
)));

leaf!(PathBuf, OsText, |value, out| save_bytes(value.as_os_str().as_bytes(), out), |input| {
    restore_bytes(input).map(OsString::from_vec).map(PathBuf::from)
});
leaf!(Box<Path>, OsText, |value, out| save_bytes(value.as_os_str().as_bytes(), out), |input| {
    restore_bytes(input).map(OsString::from_vec).map(|path| PathBuf::from(path).into())
});
leaf!(Cow<'_, Path>, OsText, |value, out| save_bytes(value.as_os_str().as_bytes(), out), |input| {
    restore_bytes(input).map(OsString::from_vec).map(|path| Cow::Owned(path.into()))
});

leaf!(CString, CText, |value, out| save_bytes(value.to_bytes(), out), |input| restore_c(input));
leaf!(Box<CStr>, CText, |value, out| save_bytes(value.to_bytes(), out), |input| Ok(restore_c(input)?.into()));
leaf!(Cow<'_, CStr>, CText, |value, out| save_bytes(value.to_bytes(), out), |input| restore_c(input).map(Cow::Owned));
