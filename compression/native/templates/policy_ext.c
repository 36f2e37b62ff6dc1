/* The policy as an extension of CPython: act(obs) -> a new array. Compiled with policy.c of an exported folder. */
#define PY_SSIZE_T_CLEAN
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>

#include <numpy/arrayobject.h>

#include "policy.h"

static PyObject *act(PyObject *module, PyObject *given)
{
    (void)module;
    const int flags = NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST;
    PyArrayObject *obs = (PyArrayObject *)PyArray_FROMANY(given, NPY_FLOAT32, 1, 1, flags);
    if (obs == NULL)
        return NULL;
    if (PyArray_DIM(obs, 0) != POLICY_OBS_DIM) {
        PyErr_Format(PyExc_ValueError, "an observation has %d entries, not %zd", POLICY_OBS_DIM,
                     (Py_ssize_t)PyArray_DIM(obs, 0));
        Py_DECREF(obs);
        return NULL;
    }
    npy_intp length = POLICY_ACT_DIM;
    PyObject *action = PyArray_SimpleNew(1, &length, NPY_FLOAT32);
    if (action != NULL)
        policy_step((const float *)PyArray_DATA(obs), (float *)PyArray_DATA((PyArrayObject *)action));
    Py_DECREF(obs);
    return action;
}

static int initialize(PyObject *module)
{
    (void)module;
    import_array1(-1);
    return 0;
}

static PyMethodDef methods[] = {
    {"act", act, METH_O, "Observation [obs_dim] -> action [act_dim] in environment units, float32."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)initialize}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "policy_ext", .m_methods = methods, .m_slots = slots,
};

PyMODINIT_FUNC PyInit_policy_ext(void) { return PyModuleDef_Init(&definition); }
