// The zip has the modes of its files, and Lambda reads them as another user, whatever the umask of the shell.
process.umask(0o022);
module.exports = require('./esbuild.ts'); // osls loads JavaScript only
