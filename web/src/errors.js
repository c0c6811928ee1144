/** Bad input. The message says what was expected and ends with what was received. */
export class InputError extends Error {
  name = 'InputError';
}
