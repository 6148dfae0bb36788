//! Writing delivered objects below a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::service::Parcel;

/// Writes the object of `parcel` to `directory/<stream>/<path>` and says where; each stream's
/// directory is the root of its bucket.
///
/// The object appears under its name whole or not at all: it is written beside it under a name
/// that begins with a dot and then renamed. It is not synced: whoever needs the data to outlive a
/// power cut needs the real service.
///
/// # Errors
///
/// Whatever the file system says; nothing is left behind then.
pub(super) fn write(directory: &Path, parcel: &Parcel) -> io::Result<PathBuf> {
    let Parcel { stream, delivery, object, id } = parcel;
    let path = directory.join(stream).join(object.path(stream, delivery, *id));
    let parent = path.parent().unwrap_or(directory);
    fs::create_dir_all(parent)?;
    let temporary = parent.join(format!(".{id:032x}"));
    let written = File::create_new(&temporary)
        .and_then(|file| fill(file, parcel))
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // It may not exist; and the first error is the one to tell.
        fs::remove_file(&temporary).ok();
    }
    written.map(|()| path)
}

fn fill(mut file: File, parcel: &Parcel) -> io::Result<()> {
    let pieces = &parcel.object.pieces;
    if !parcel.delivery.gzip {
        return pieces.iter().try_for_each(|piece| file.write_all(piece));
    }
    let mut file = GzEncoder::new(file, Compression::fast());
    pieces.iter().try_for_each(|piece| file.write_all(piece))?;
    file.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::store::{Delivery, Object};
    use super::*;

    fn parcel(gzip: bool) -> Parcel {
        let delivery = Delivery { prefix: "a/b-".into(), size: 1, interval: Duration::ZERO, gzip };
        let pieces = vec![Bytes::from_static(b"one\n"), Bytes::from_static(b"two\n")];
        let object = Object { pieces, bytes: 8, records: 2, since: Duration::ZERO };
        Parcel { stream: "s".into(), delivery, object, id: 7 }
    }

    #[test]
    fn an_object_holds_its_records_one_behind_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &parcel(false)).unwrap();
        assert!(path.starts_with(directory.path().join("s/a/b-1970/01/01/00")), "{path:?}");
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        let path = write(directory.path(), &parcel(true)).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), &parcel(false)).unwrap();
        fs::remove_file(&path).unwrap();
        // A directory of the object's name cannot be renamed over.
        fs::create_dir(&path).unwrap();
        write(directory.path(), &parcel(false)).unwrap_err();
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
