import { pathToFileURL } from 'node:url';

/** The folder that prepare.py wrote; null without it. */
export const DATA = process.env.WEB_TEST_DATA ? pathToFileURL(`${process.env.WEB_TEST_DATA}/`) : null;

/** Options of a test that needs the folder. */
export const withData = { skip: DATA ? false : 'needs WEB_TEST_DATA, a folder that prepare.py wrote' };
