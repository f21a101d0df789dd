module.exports = require('./rollback.ts'); // osls loads JavaScript only
